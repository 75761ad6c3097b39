"""How fast streams go on behind stored contexts, and where the time of a step goes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.job import Job
from benchmarks.gpu.plan import Decoding
from benchmarks.lab.ceilings import Floors, measured
from benchmarks.lab.measure import Draw, said
from benchmarks.lab.run import HeldStore, draw_of, random_model
from engine.base import Delta, GenerateRequest, Piece, Prompt, Sampling
from engine.config import BatchingConfig
from engine.transformers import LoadedModel, ModelRunner, SequenceKV, TransformersEngine, Work
from engine.transformers.cost import calibrated
from kvcache import Segment, chain_key, root_key

log = logging.getLogger(__name__)

_QUERY_TOKENS = 16
_QUERY_LOOKED_AT = 167
_CHUNK = 8192
_BARE_STEPS = 6
_SLACK = 1.1


def measure(job: Job) -> None:
    """Every number of streams behind every context."""
    decoding = job.plan.decoding
    longest = max(decoding.contexts) + _QUERY_TOKENS + decoding.steps + max(decoding.streams) + 8
    model, size, _ = random_model(job.plan.small, longest, job.device, job.dtype)
    ceilings = measured(job.device, job.dtype, None)
    item = job.dtype.itemsize
    floors = Floors(size, ceilings, item, item, model.fingerprint.layout.bytes_per_token)
    job.record.cell("cost model", lambda: _cost_model(job, model))
    asyncio.run(_Streams(job, model, floors, draw_of(model, "random")).all())


@torch.inference_mode()
def _cost_model(job: Job, model: LoadedModel) -> dict[str, Any]:
    """Measure the cost model as at a server's start, and compare its predictions with the time of two prompts."""
    cost = calibrated(model, max(job.plan.decoding.contexts))  # each prompt is one pass here
    runner, draw = ModelRunner(model.model), draw_of(model, "random")
    found = {}
    for n, behind in ((_QUERY_LOOKED_AT, max(job.plan.decoding.contexts)), (max(job.plan.decoding.contexts), 0)):
        times = []
        for _ in range(3):
            kv = SequenceKV(model.fingerprint.layout, model.device, behind + n)
            if behind:
                kv.open_region(behind)
            runner.wait()
            begin = time.perf_counter()
            runner.forward([Work(kv, draw(n, 3))]).argmax(-1).tolist()
            times.append(time.perf_counter() - begin)
        said_s, took_s = cost.compute_s(n, behind), min(times)
        found[f"{n} behind {behind}"] = {
            "said_s": round(said_s, 6),
            "took_s": round(took_s, 6),
            "ratio": round(said_s / took_s, 3),
        }
    return found


class _Streams:
    def __init__(self, job: Job, model: LoadedModel, floors: Floors, draw: Draw) -> None:
        self._job, self._model, self._floors, self._draw = job, model, floors, draw
        self._decoding: Decoding = job.plan.decoding
        self._gist: list[str] = []

    async def all(self) -> None:
        most = max(self._decoding.streams)
        nbytes = _SLACK * most * max(self._decoding.contexts) * self._floors.bytes_per_token + (64 << 20)
        store = HeldStore(
            self._job.folder / "decode", device=self._model.device, device_bytes=int(nbytes), host_bytes=64 << 20
        )
        batching = BatchingConfig(most, _CHUNK, _CHUNK)
        engine = TransformersEngine(self._model, store, model_id="decode", batching=batching)
        try:
            for context in self._decoding.contexts:
                await self._behind(engine, context)
        finally:
            store.catalogue.clear()
            await engine.close()

    async def _behind(self, engine: TransformersEngine, context: int) -> None:
        """All numbers of streams behind contexts of a given number of tokens, each its own, built once."""
        contexts = [self._draw(context, 7 + i) for i in range(max(self._decoding.streams))]
        try:
            for tokens in contexts:
                await engine.build(Prompt((Piece("header", tokens, storable=True),)))
            for n in self._decoding.streams:
                name = f"{context} tokens, {n} streams"
                begin = time.perf_counter()
                found = await self._measure(engine, contexts[:n])
                self._job.record.keep(name, found, time.perf_counter() - begin)
                share = 100 * found["share_of_floor"]
                self._gist.append(f"{name}: {found['tokens_s']:.4g} tokens/s, {share:.0f}% of the floor's")
                self._job.record.put("gist", self._gist)
            begin = time.perf_counter()
            found = await self._look(engine, contexts)
            self._job.record.keep(f"{context} tokens, looked into", found, time.perf_counter() - begin)
        except Exception as error:
            # A context's edge: what was measured behind others stays.
            log.exception("%d tokens", context)
            self._job.record.fail(f"{context} tokens", said(error))
        finally:
            engine.catalogue.clear()

    async def _measure(self, engine: TransformersEngine, contexts: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        n, steps = len(contexts), self._decoding.steps
        times = await asyncio.gather(*[self._stream(engine, tokens, i, steps + n) for i, tokens in enumerate(contexts)])
        begin, end = max(one[0] for one in times), min(one[-1] for one in times)
        inside = sum(begin < at <= end for one in times for at in one)
        step_s = (end - begin) * n / inside
        bare_s = await engine.on_model(lambda runner: self._bare(runner, self._spans(engine, contexts)))
        floor_s = self._floors.step(n, len(contexts[0]))
        return {
            "tokens_s": round(n / step_s, 2),
            "step_s": round(step_s, 6),
            "bare_step_s": round(bare_s, 6),
            "floor_step_s": round(floor_s, 6),
            "share_of_floor": round(floor_s / step_s, 4),
            "ratio_to_bare": round(step_s / bare_s, 3),
            "tokens_counted": inside,
        }

    async def _stream(
        self, engine: TransformersEngine, context: tuple[int, ...], seed: int, n_tokens: int
    ) -> list[float]:
        """When each token of a stream came."""
        prompt = Prompt((Piece("header", context), Piece("turns", self._draw(_QUERY_TOKENS, 1000 + seed))))
        request = GenerateRequest(
            f"stream {seed}", prompt, Sampling(max_tokens=n_tokens, temperature=0.0, ignore_eos=True)
        )
        return [time.perf_counter() async for event in engine.generate(request) if isinstance(event, Delta)]

    def _spans(self, engine: TransformersEngine, contexts: Sequence[tuple[int, ...]]) -> list[Segment]:
        root = root_key(engine.fingerprint)
        return [engine.store.load(chain_key(root, tokens), engine.fingerprint).segment for tokens in contexts]

    def _sequences(self, segments: Sequence[Segment]) -> list[SequenceKV]:
        made = []
        for segment in segments:
            kv = SequenceKV(self._model.fingerprint.layout, self._model.device, segment.n_tokens + _BARE_STEPS + 4)
            kv.inject(segment, min_span=1)
            made.append(kv)
        return made

    def _bare(self, runner: ModelRunner, segments: Sequence[Segment]) -> float:
        """Seconds of a step without the engine: the pass, and the ids of the likeliest tokens on the host."""
        sequences = self._sequences(segments)
        times = []
        for step in range(_BARE_STEPS):
            runner.wait()
            begin = time.perf_counter()
            runner.forward([Work(kv, (step,)) for kv in sequences]).argmax(-1).tolist()
            times.append(time.perf_counter() - begin)
        return sorted(times[1:])[len(times[1:]) // 2]

    async def _look(self, engine: TransformersEngine, contexts: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        """Measure where the time goes: a step of all streams, a step of one, and a query's pass behind one context."""

        def look(runner: ModelRunner) -> dict[str, Any]:
            segments = self._spans(engine, contexts)
            query = self._draw(_QUERY_LOOKED_AT, 5)
            found = {}
            for name, n, tokens in (
                (f"a step of {len(segments)}", len(segments), (2,)),
                ("a step of 1", 1, (2,)),
                (f"{len(query)} tokens", 1, query),
            ):

                def work(n: int = n, tokens: tuple[int, ...] = tokens) -> None:
                    works = [Work(kv, tokens) for kv in self._sequences(segments[:n])]
                    runner.forward(works).argmax(-1).tolist()

                work()
                found[name] = looked_into(work, self._model.device)
            return found

        return await engine.on_model(look)


class OperationCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that the dispatcher sees, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_name: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.by_name[name] = self.by_name.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def looked_into(work: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """On a GPU: kernels, and the share of the time that the device computes; elsewhere the operations that were
    dispatched."""
    if device.type != "cuda":
        with OperationCount() as count:
            work()
        return {"operations": sum(count.by_name.values())}
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        torch.cuda.synchronize(device)
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        wall_s = time.perf_counter() - begin
    kernels = [event for event in profile.events() if str(event.device_type) == "DeviceType.CUDA"]
    busy_s = sum(event.time_range.elapsed_us() for event in kernels) / 1e6
    by_time: dict[str, float] = {}
    for event in kernels:
        by_time[event.name] = by_time.get(event.name, 0.0) + event.time_range.elapsed_us() / 1e3
    most = sorted(by_time.items(), key=lambda item: -item[1])[:12]
    return {
        "kernels": len(kernels),
        "wall_s_profiled": round(wall_s, 6),
        "busy_share_profiled": round(busy_s / wall_s, 4),
        "longest_ms": {name[:100]: round(ms, 3) for name, ms in most},
    }
