"""Whether to load a segment or to compute its tokens: on a fast GPU a drive can be the slower way.

Computing n tokens behind c others is taken to cost n x (a + b x (c + n / 2)) seconds: a is the linear layers, b is
attention. Both are measured at start. Loading costs bytes / bandwidth of the tier; the drive's bandwidth starts from an
assumption and follows what loads take.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from engine.transformers.attention import SequenceKV
from engine.transformers.loading import LoadedModel
from engine.transformers.runner import ModelRunner, Work
from kvcache import Entry, TierName

_ASSUMED: dict[TierName, float] = {"device": float("inf"), "host": 10e9, "disk": 1e9}
_SHORT, _FAR = 128, 1024
# How much a new load moves the estimate of its tier.
_WEIGHT = 0.3


@dataclass
class CostModel:
    """``token_s`` and ``pair_s``: seconds a token, and seconds a token and token before it. ``bandwidth``: bytes a
    second by tier, followed under a lock because two threads load."""

    token_s: float
    pair_s: float
    bandwidth: dict[TierName, float] = field(default_factory=lambda: dict(_ASSUMED))
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def compute_s(self, n_tokens: int, behind: int) -> float:
        return n_tokens * (self.token_s + self.pair_s * (behind + n_tokens / 2))

    def load_s(self, entry: Entry, tier: TierName | None) -> float:
        return float("inf") if tier is None else entry.bytes_in(tier) / self.bandwidth[tier]

    def observe_load(self, tier: TierName, nbytes: int, seconds: float) -> None:
        """A load took so long."""
        if tier == "device" or seconds <= 0.0:
            return
        with self._lock:
            old = self.bandwidth[tier]
            self.bandwidth[tier] = 1.0 / ((1.0 - _WEIGHT) / old + _WEIGHT * seconds / nbytes)

    def worth_loading(self, chain: Sequence[Entry], n_tokens: int, tier_of: Callable[[str], TierName | None]) -> int:
        """How many of the chain's segments to load, so that loading them and computing the rest of the prompt's
        ``n_tokens`` is quickest."""
        best, best_s = 0, self.compute_s(n_tokens, 0)
        loading = 0.0
        for count, entry in enumerate(chain, start=1):
            loading += self.load_s(entry, tier_of(entry.key))
            done = entry.start + entry.n_tokens
            total = loading + self.compute_s(n_tokens - done, done)
            if total <= best_s:
                best, best_s = count, total
        return best

    def worth_composing(self, entry: Entry, tier: TierName | None, used_tokens: float, behind: int) -> bool:
        """Whether a page is quicker loaded than the tokens that it would save are computed."""
        return self.load_s(entry, tier) < self.compute_s(int(used_tokens), behind)


@torch.inference_mode()
def calibrated(model: LoadedModel) -> CostModel:
    """Measure the model on this machine; takes about as long as a prompt of a thousand tokens."""
    runner = ModelRunner(model.model)
    far = min(_FAR, model.context - _SHORT)
    near_s = _timed(model, runner, 0)
    pair_s = max(0.0, _timed(model, runner, far) - near_s) / (_SHORT * far) if far > 0 else 0.0
    token_s = max(near_s / _SHORT - pair_s * _SHORT / 2, 0.0)
    cost = CostModel(token_s, pair_s)
    if model.device.type == "cpu":  # the host's memory is the device's
        cost.bandwidth["host"] = float("inf")
    else:
        cost.bandwidth["host"] = _copy_bandwidth(model.device)
    return cost


def _timed(model: LoadedModel, runner: ModelRunner, behind: int) -> float:
    """Seconds of a forward pass of a few tokens behind ``behind`` others; the better of two after a warm-up."""
    tokens = [i % model.model.config.vocab_size for i in range(_SHORT)]
    times = []
    for _ in range(3):
        kv = SequenceKV(model.fingerprint.layout, model.device, behind + _SHORT)
        if behind:
            kv.open_region(behind)
        _wait(model.device)
        begin = time.perf_counter()
        runner.forward([Work(kv, tokens)]).cpu()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def _copy_bandwidth(device: torch.device) -> float:
    """Bytes a second from pinned host memory to the device."""
    data = torch.empty(256 << 20, dtype=torch.uint8, pin_memory=True)
    data.to(device)
    _wait(device)
    begin = time.perf_counter()
    data.to(device)
    _wait(device)
    return data.nbytes / (time.perf_counter() - begin)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
