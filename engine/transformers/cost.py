"""Whether to load a segment or to compute its tokens: on a fast GPU a drive can be the slower way.

Computing n tokens behind c others is taken to cost p x k + n x (a + b x (c + n / 2)) seconds: k is a pass (on a GPU,
the time to launch its kernels), of which there are p, one a chunk; a is the linear layers, b is attention. All are
measured at start, with few tokens and with many: a short pass alone would tell of nothing but launches on a GPU.
Loading costs bytes / bandwidth of the tier; the drive's starts from an assumption and follows what loads take.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from engine.transformers.attention.sequence_kv import SequenceKV
from engine.transformers.loading import LoadedModel
from engine.transformers.runner import ModelRunner, Work
from kvcache import Entry, TierName
from kvcache.arena import pinned_block
from kvcache.copies import Copies

_ASSUMED: dict[TierName, float] = {"device": float("inf"), "host": 10e9, "disk": 1e9, "remote": 1e9}
# On a GPU the longest of these that there is memory for, this many times over.
_LONG_ON_GPU, _MEMORY_TIMES = (4096, 2048, 512), 8
_COPIED_BYTES = 256 << 20
# How much a new load moves the estimate of its tier.
_WEIGHT = 0.3


@dataclass
class CostModel:
    """``token_s`` and ``pair_s``: seconds a token, and seconds a token and token before it; ``pass_s``: seconds a pass,
    of at most ``chunk`` tokens. ``bandwidth``: bytes per second by tier, followed under a lock because two threads
    load."""

    token_s: float
    pair_s: float
    pass_s: float = 0.0
    chunk: int = 512
    bandwidth: dict[TierName, float] = field(default_factory=lambda: dict(_ASSUMED))
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def compute_s(self, n_tokens: int, behind: int) -> float:
        """Estimate the seconds to compute ``n_tokens`` tokens behind ``behind`` others."""
        passes = math.ceil(n_tokens / self.chunk)
        return passes * self.pass_s + n_tokens * (self.token_s + self.pair_s * (behind + n_tokens / 2))

    def saved_s(self, n_tokens: int, behind: int) -> float:
        """Estimate the seconds that a prompt takes less without ``n_tokens`` of its tokens: a pass that others share
        stays."""
        spared = self.pass_s * (n_tokens // self.chunk - math.ceil(n_tokens / self.chunk))
        return self.compute_s(n_tokens, behind) + spared

    def load_s(self, entry: Entry, tier: TierName | None) -> float:
        return float("inf") if tier is None else entry.bytes_in(tier) / self.bandwidth[tier]

    def observe_load(self, tier: TierName, nbytes: int, seconds: float) -> None:
        """Learn from how long a load took."""
        if tier == "device" or seconds <= 0.0:
            return
        with self._lock:
            old = self.bandwidth[tier]
            self.bandwidth[tier] = 1.0 / ((1.0 - _WEIGHT) / old + _WEIGHT * seconds / nbytes)

    def worth_loading(self, chain: Sequence[Entry], n_tokens: int, tier_of: Callable[[str], TierName | None]) -> int:
        """Return how many of the chain's segments to load, so that loading them and computing the rest of the prompt's
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
        """Say whether a page is quicker loaded than the tokens that it would save are computed."""
        return self.load_s(entry, tier) < self.saved_s(int(used_tokens), behind)


@dataclass(frozen=True)
class Sizes:
    """Tokens of the passes that are measured: ``short`` and ``long`` alone, and ``long`` behind ``far`` others."""

    short: int
    long: int
    far: int


@torch.inference_mode()
def calibrated(model: LoadedModel, chunk: int = 512) -> CostModel:
    """Measure the model on this machine, whose prompts are computed in passes of ``chunk`` tokens; takes about as long
    as a prompt of a thousand tokens, on a GPU of twenty thousand."""
    runner = ModelRunner(model.model)
    sizes = _sizes(model)
    _timed(model, runner, sizes.short, 0)  # the first passes of a process are slower

    def seconds(n_tokens: int, behind: int) -> float:
        return _timed(model, runner, n_tokens, behind)

    cost = fitted(seconds, sizes, chunk)
    if model.device.type == "cpu":  # the host's memory is the device's
        cost.bandwidth["host"] = float("inf")
    else:
        cost.bandwidth["host"] = _copy_bandwidth(model.device)
    return cost


def fitted(seconds: Callable[[int, int], float], sizes: Sizes, chunk: int) -> CostModel:
    """Fit the cost model through three measurements: ``seconds`` gives those of a pass of n tokens behind
    others."""
    short, long, far = sizes.short, sizes.long, sizes.far
    few_s, many_s = seconds(short, 0), seconds(long, 0)
    pair_s = max(0.0, seconds(long, far) - many_s) / (long * far) if far > 0 else 0.0
    few_linear_s, many_linear_s = (s - pair_s * n * n / 2 for s, n in ((few_s, short), (many_s, long)))
    token_s = (many_linear_s - few_linear_s) / (long - short)
    # Noise must not make a pass, or a token, cost less than nothing.
    token_s = max(0.0, min(token_s, many_linear_s / long))
    return CostModel(token_s, pair_s, max(0.0, few_linear_s - token_s * short), chunk)


def _sizes(model: LoadedModel) -> Sizes:
    """Choose sizes: on a CPU such that measuring takes no longer than it is worth; on a GPU large enough for its matrix
    units to be what takes the time, as far as there is memory."""
    longs = [128]
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
        per_token = model.fingerprint.layout.bytes_per_token
        longs = [n for n in _LONG_ON_GPU if _MEMORY_TIMES * 2 * n * per_token <= free] or longs
    long = max(2, min(longs[0], model.context // 2))
    far = 1024 if model.device.type == "cpu" else long
    return Sizes(
        max(1, min(32 if model.device.type == "cpu" else 128, long // 2)), long, min(far, model.context - long)
    )


def _timed(model: LoadedModel, runner: ModelRunner, n_tokens: int, behind: int) -> float:
    """Measure the seconds of a forward pass of ``n_tokens`` tokens behind ``behind`` others; the better of two."""
    tokens = [i % model.model.config.vocab_size for i in range(n_tokens)]
    times = []
    for _ in range(2):
        kv = SequenceKV(model.fingerprint.layout, model.device, behind + n_tokens)
        if behind:
            kv.open_region(behind)
        _wait(model.device)
        begin = time.perf_counter()
        runner.forward([Work(kv, tokens)]).cpu()
        times.append(time.perf_counter() - begin)
    return min(times)


def _copy_bandwidth(device: torch.device) -> float:
    """Measure bytes per second from pinned host memory to the device; the better of two."""
    copies = Copies(device)
    data = pinned_block(_COPIED_BYTES)
    copied = [copies.to_device([data], wait=True)[1] for _ in range(2)]
    copies.settle()
    return max(data.nbytes / copy.seconds for copy in copied if copy is not None)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
