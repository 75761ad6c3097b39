"""Runs suites over models and gives the result as JSON-able data."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.composing import ALWAYS
from benchmarks.lab.architectures import ARCHITECTURES, Size
from benchmarks.lab.ceilings import Ceilings, Floors, measured
from benchmarks.lab.measure import BuildRow, CellBench, Draw, Row
from benchmarks.lab.suites import SUITES, Suite
from benchmarks.lab.weights import Kind, choose_kind, random_network, word_tokenizer
from benchmarks.machine import manifest
from benchmarks.peers import PeerProcess
from benchmarks.text import tokens_of_text
from engine.transformers import (
    BatchingConfig,
    LoadedModel,
    TransformersEngine,
    in_passing,
    leave_to_engine,
    load_model,
    prepare,
    usable_threads,
)
from engine.transformers.governor import ThreadGovernor
from engine.transformers.loading import choose_device, choose_dtype
from kvcache import CodecName, SegmentStore

# Prompt tokens a step: on a GPU a whole prompt, as nothing runs beside it here.
_PREFILL_CHUNK = {"cpu": 512, "cuda": 8192}
_HOST_BYTES = 64 << 30
_DISK_BYTES = 256 << 30


class UnknownModel(ValueError):
    """Neither a published architecture (``--weights random``) nor a model that can be loaded."""


@dataclass(frozen=True)
class Settings:
    """``models``: names of architectures with random weights, else ``demo``, ids or folders. ``rounds`` and ``peers``:
    the suite's own where None. ``peer_folder``: the weights that peers load."""

    suite: str = "quick"
    models: tuple[str, ...] = ("demo",)
    weights: Literal["real", "random"] = "real"
    device: str = "auto"
    dtype: str = "auto"
    rounds: int | None = None
    peers: tuple[str, ...] | None = None
    contexts: tuple[int, ...] | None = None
    folder: Path | None = None


OpenPeers = Callable[[Sequence[str], str | Path, int, int], tuple[list[PeerProcess], dict[str, str]]]
"""Starts peers on a model's folder, for so many tokens of context, with so many CPU threads: those that run, and why
the others do not."""
FindModel = Callable[[str], "str | Path"]
"""Where a model's files are: an id stays an id, ``demo`` becomes a folder."""


def run(
    settings: Settings,
    report: Callable[[str], None],
    find_model: FindModel = lambda name: name,
    open_peers: OpenPeers | None = None,
) -> dict[str, Any]:
    """Measure; the result has ``rows``, ``builds``, ``models``, ``ceilings``, ``machine`` and what was ``skipped``."""
    return asyncio.run(_Run(settings, report, find_model, open_peers).all())


class _Run:
    def __init__(
        self,
        settings: Settings,
        report: Callable[[str], None],
        find_model: FindModel,
        open_peers: OpenPeers | None,
    ) -> None:
        suite = SUITES[settings.suite]
        cells = tuple(c for c in suite.cells if settings.contexts is None or c.context_tokens in settings.contexts)
        peers = suite.peers if settings.peers is None else settings.peers
        self._suite = replace(suite, cells=cells, rounds=settings.rounds or suite.rounds, peers=peers)
        self._settings, self._report = settings, report
        self._find_model, self._open_peers = find_model, open_peers
        self._device = choose_device(settings.device)
        self._dtype = choose_dtype(settings.dtype, self._device)
        self._threads = usable_threads()
        self._rows: list[Row] = []
        self._builds: list[BuildRow] = []
        self._models: dict[str, dict[str, Any]] = {}
        self._skipped: list[dict[str, str]] = []

    async def all(self) -> dict[str, Any]:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="recallkv-lab-", dir=self._settings.folder) as name:
            folder = Path(name)
            self._report("measuring what this machine can do at best")
            ceilings = in_passing(lambda: measured(self._device, self._dtype, folder), self._threads)
            self._free()
            leave_to_engine()
            try:
                for model in self._settings.models:
                    await self._measure_model(model, ceilings, folder)
            finally:
                torch.set_num_threads(self._threads)
        return {
            "suite": self._suite.name,
            "machine": manifest(self._device, str(self._dtype).removeprefix("torch.")),
            "ceilings": asdict(ceilings),
            "rounds": self._suite.rounds,
            "models": self._models,
            "rows": [asdict(row) for row in self._rows],
            "builds": [asdict(row) for row in self._builds],
            "skipped": self._skipped,
            "seconds": round(time.perf_counter() - begin, 1),
        }

    async def _measure_model(self, name: str, ceilings: Ceilings, folder: Path) -> None:
        self._report(f"{name}: making the model")
        begin = time.perf_counter()
        model, size, kind = in_passing(lambda: self._load(name), self._threads)
        suite, too_long = self._suite.within(model.context)
        for cell in too_long:
            what = f"{cell.context_tokens}+{cell.query_tokens} tokens"
            self._skip(name, what, f"the model's context is {model.context} tokens")
        layout = model.fingerprint.layout
        weight_bytes = max(sum(p.nbytes for p in model.model.parameters()), self._least_bytes(size, kind))
        floors = Floors(size, ceilings, weight_bytes, layout.bytes_per_token)
        self._models[name] = {
            "parameters": size.parameters,
            "weights": self._settings.weights,
            "weights_kind": kind,
            "dtype": layout.dtype,
            "bytes_per_token": layout.bytes_per_token,
            "prefill_chunk": _PREFILL_CHUNK[self._device.type],
            "load_s": round(time.perf_counter() - begin, 1),
        }
        draw = _draw_of(model, self._settings.weights)
        with self._peers(name, suite) as peers:
            for codec in suite.codecs:
                await self._measure_cells(name, model, suite, floors, draw, peers, codec, folder)
        del model
        self._free()

    def _free(self) -> None:
        """Give the device's memory back that nothing holds any more."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _least_bytes(self, size: Size, kind: Kind) -> int:
        """Packed linear layers hold their weights out of torch's sight."""
        per_weight = 1 if kind == "fp8" else self._dtype.itemsize
        return (size.linear + size.head) * per_weight

    def _load(self, name: str) -> tuple[LoadedModel, Size, Kind]:
        if self._settings.weights == "real":
            loaded = load_model(self._find_model(name), device=self._settings.device, dtype=self._settings.dtype)
            return loaded, Size.of(loaded.model.config), "full"
        if name not in ARCHITECTURES:
            raise UnknownModel(f"no architecture is called {name}; there are: {', '.join(ARCHITECTURES)}")
        architecture = ARCHITECTURES[name]
        longest = max(cell.context_tokens + cell.query_tokens for cell in self._suite.cells) + 64
        config = architecture.config(longest)
        size = Size.of(config)
        kind = choose_kind(size, self._dtype, self._device)
        network = random_network(architecture, longest, self._device, self._dtype, kind)
        return prepare(network, word_tokenizer(config.vocab_size)), size, kind

    async def _measure_cells(
        self,
        name: str,
        model: LoadedModel,
        suite: Suite,
        floors: Floors,
        draw: Draw,
        peers: list[PeerProcess],
        codec: CodecName,
        folder: Path,
    ) -> None:
        where = folder / f"{len(self._models)}-{codec}"
        engine = self._engine(name, model, where, codec)
        try:
            for cell in suite.cells:
                for requests in suite.requests:
                    bench = CellBench(engine, where, draw, floors, suite, cell, peers, codec, requests)
                    samples = await bench.measure(lambda text: self._report(f"{name} {text}"))
                    self._rows += bench.rows(name, samples, ALWAYS.high.share)
                    for mode, reason in bench.failed.items():
                        self._skip(name, f"{mode} at {cell.context_tokens}+{cell.query_tokens} tokens", reason)
                        peers[:] = [peer for peer in peers if f"peer:{peer.name}" != mode]
                    built = bench.build_row(name, samples)
                    known = {(row.model, row.context_tokens) for row in self._builds}
                    if built is not None and (name, cell.context_tokens) not in known:
                        self._builds.append(built)
        finally:
            await engine.close()

    def _engine(self, name: str, model: LoadedModel, folder: Path, codec: CodecName) -> TransformersEngine:
        device_bytes = 64 << 30
        if self._device.type == "cuda":  # half of what is left; the rest is for running sequences
            device_bytes = torch.cuda.mem_get_info(self._device)[0] // 2
        store = SegmentStore(
            folder,
            device=self._device,
            device_bytes=device_bytes,
            host_bytes=_HOST_BYTES,
            disk_bytes=_DISK_BYTES,
            codec=codec,
        )
        chunk = _PREFILL_CHUNK[self._device.type]
        batching = BatchingConfig(prefill_chunk=chunk)
        governor = ThreadGovernor(self._threads, adaptive=False)
        engine = TransformersEngine(model, store, model_id=name, batching=batching, composing=ALWAYS, governor=governor)
        leave_to_engine()
        return engine

    @contextmanager
    def _peers(self, name: str, suite: Suite) -> Iterator[list[PeerProcess]]:
        opened: list[PeerProcess] = []
        if suite.peers and suite.cells:
            if self._open_peers is None or self._settings.weights == "random":
                for peer in suite.peers:
                    self._skip(name, f"peer:{peer}", "peers load weights from a folder; these are random")
            else:
                longest = max(cell.context_tokens + cell.query_tokens for cell in suite.cells) + 64
                self._report(f"{name}: starting {', '.join(suite.peers)}")
                opened, refused = self._open_peers(suite.peers, self._find_model(name), longest, self._threads)
                for peer, reason in refused.items():
                    self._skip(name, f"peer:{peer}", reason)
                self._models[name]["peers"] = {
                    one.name: {"versions": one.versions, "notes": one.notes} for one in opened
                }
        try:
            yield opened
        finally:
            for one in opened:
                one.close()

    def _skip(self, model: str, what: str, reason: str) -> None:
        self._skipped.append({"model": model, "what": what, "reason": reason})


def _draw_of(model: LoadedModel, weights: str) -> Draw:
    """Prose for a real model, any tokens for random weights."""
    if weights == "real":

        def encode(text: str) -> list[int]:
            ids: list[int] = model.tokenizer.encode(text, add_special_tokens=False)
            return ids

        return lambda n, seed: tokens_of_text(encode, n, seed)
    words = model.model.config.vocab_size

    def draw(n: int, seed: int) -> tuple[int, ...]:
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randint(words, (n,), generator=generator).tolist())

    return draw
