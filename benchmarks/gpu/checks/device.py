"""How the engine treats the device: no waiting inside a pass, no graph built for each length, no end by one request
that is too large, no reading of what another stream still writes."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpu.checks.base import Finding, Site, check
from benchmarks.gpu.checks.networks import network_of
from benchmarks.gpu.decoding import OperationCount
from benchmarks.lab.weights import word_tokenizer
from engine.base import Delta, GenerateRequest, Piece, Prompt, Sampling
from engine.errors import EngineError
from engine.transformers import LoadedModel, ModelRunner, SequenceKV, TransformersEngine, Work, prepare
from kvcache import TieredStore

_WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique")
_STEPS = 6
# A step at a length that is new takes at most this many times as long as the median one: nothing is built for it.
_SLOWEST = 8.0
_SANITIZED_S = 60
_DRILL_S = 20


@check
def waits_in_a_pass(site: Site) -> Finding:
    """A pass waits for the device no more often with more layers, and not at all once its inputs are there: counted as
    PyTorch's own warnings on a GPU, as operations that would wait on a CPU."""
    figures = {f"{layers} layers": _waits(site, layers) for layers in (2, 6)}
    few, many = figures.values()
    note = "" if few == many else f"{many - few} more waits for 4 more layers"
    return Finding(few == many, figures, note)


@torch.inference_mode()
def _waits(site: Site, layers: int) -> int:
    network = network_of("qwen3", site.device, torch.bfloat16, num_hidden_layers=layers)
    model = prepare(network, word_tokenizer(300))
    runner = ModelRunner(network)
    sequences = [SequenceKV(model.fingerprint.layout, site.device, 64) for _ in range(3)]
    runner.forward([Work(kv, range(1, 30)) for kv in sequences])

    def step() -> None:
        runner.forward([Work(kv, (5,)) for kv in sequences])

    if site.device.type != "cuda":
        with OperationCount() as count:
            step()
        return sum(count.by_name.get(name, 0) for name in _WAITS)
    torch.cuda.synchronize(site.device)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message).lower() for one in heard)


@check
@torch.inference_mode()
def steps_at_new_lengths(site: Site) -> Finding:
    """Single tokens behind lengths that were never seen before take the same time each; beside it PyTorch's own choice
    of attention with cuDNN and without."""
    network = network_of("qwen3", site.device, torch.bfloat16, head_dim=128)
    model = prepare(network, word_tokenizer(300))
    runner = ModelRunner(network)
    kv = SequenceKV(model.fingerprint.layout, site.device, 1024)
    runner.forward([Work(kv, range(1, 211))])
    times = []
    for step in range(4 * _STEPS):
        begin = time.perf_counter()
        runner.forward([Work(kv, (step,))]).argmax(-1).tolist()
        times.append(time.perf_counter() - begin)
    later = times[2:]
    ratio = max(later) / statistics.median(later)
    figures: dict[str, Any] = {"median_ms": statistics.median(later) * 1e3, "slowest_to_median": ratio}
    if site.device.type == "cuda":
        for name, is_on in (("with cuDNN", True), ("without", False)):
            figures[f"PyTorch's own, ms a step, {name}"] = _plain_steps(site.device, is_on)
    # On a shared CPU single steps are held up by others; there the figure is only told.
    is_steady = ratio <= _SLOWEST or site.device.type != "cuda"
    return Finding(is_steady, figures, "" if is_steady else f"a step took {ratio:.1f} times the median")


def _plain_steps(device: torch.device, cudnn: bool) -> list[float]:
    """Milliseconds of PyTorch's attention of one token over lengths that are new each time."""
    before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    times = []
    try:
        query = torch.randn(1, 32, 1, 128, device=device, dtype=torch.bfloat16)
        for step in range(_STEPS):
            n = 3001 + 2 * step + cudnn
            key, value = (torch.randn(1, 8, n, 128, device=device, dtype=torch.bfloat16) for _ in range(2))
            torch.cuda.synchronize(device)
            begin = time.perf_counter()
            F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
            torch.cuda.synchronize(device)
            times.append(round((time.perf_counter() - begin) * 1e3, 3))
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
    return times


@check
def out_of_memory(site: Site) -> Finding:
    """A prompt that does not fit in the device's memory fails alone: those beside it and after it are answered."""
    if site.device.type != "cuda":
        return Finding(None, note="a CPU's memory has no such limit here")
    network = network_of("qwen3", site.device, torch.bfloat16, num_hidden_layers=24, max_position_embeddings=1 << 20)
    model = prepare(network, word_tokenizer(300))
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(site.device).total_memory
    room = torch.cuda.memory_reserved(site.device) + (600 << 20)
    torch.cuda.set_per_process_memory_fraction(min(1.0, room / total), site.device)
    try:
        return asyncio.run(_drill(site, model))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, site.device)


async def _drill(site: Site, model: LoadedModel) -> Finding:
    store = TieredStore(site.folder / "memory", device=site.device, device_bytes=64 << 20, host_bytes=64 << 20)
    engine = TransformersEngine(model, store, model_id="drill")

    async def ask(n_tokens: int) -> int | str:
        prompt = Prompt((Piece("turns", tuple(i % 300 for i in range(n_tokens))),))
        request = GenerateRequest(f"{n_tokens}", prompt, Sampling(max_tokens=8, temperature=0.0, ignore_eos=True))
        try:
            return sum([len(event.token_ids) async for event in engine.generate(request) if isinstance(event, Delta)])
        except EngineError as error:
            return f"{type(error).__name__}: {error}"

    try:
        # 24 layers x 2 heads x 64 x 2 x 2 bytes: 12 kB a token.
        async with asyncio.timeout(_DRILL_S):
            beside = await asyncio.gather(ask(200), ask(100_000), ask(300))
            after = await ask(250)
    finally:
        await engine.close()
    figures = {"small beside it": [beside[0], beside[2]], "too large": beside[1], "after it": after}
    is_right = beside[0] == beside[2] == after == 8 and isinstance(beside[1], str)
    return Finding(is_right, figures, "" if is_right else f"{figures}")


@check
def sanitized(site: Site) -> Finding:
    """PyTorch's own watcher of streams finds no access that is not ordered, in the check of networks."""
    if site.device.type != "cuda":
        return Finding(None, note="there are no streams to watch on a CPU")
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(site.folder), "--device", site.plan.device]
    done = subprocess.run(
        [*command, "--check", "networks_bfloat16"],
        env={**os.environ, "TORCH_CUDA_SANITIZER": "1"},
        capture_output=True,
        text=True,
        timeout=_SANITIZED_S,
    )
    races = done.stderr.count("CSAN detected")
    is_right = done.returncode == 0 and races == 0
    return Finding(is_right, {"races": races, "code": done.returncode}, "" if is_right else done.stderr[-2000:])
