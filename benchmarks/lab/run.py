"""Runs suites over models and gives the result as JSON-able data."""

from __future__ import annotations

import asyncio
import gc
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.data.text import tokens_of_text
from benchmarks.lab.architectures import ARCHITECTURES, Size
from benchmarks.lab.ceilings import Ceilings, Floors, measured, small_flops
from benchmarks.lab.measure import ContextBench, Draw, said
from benchmarks.lab.suites import CHAINED, SUITES, Cell, Suite
from benchmarks.lab.weights import Kind, choose_kind, distinct_layers, random_network, word_tokenizer
from benchmarks.peers import PeerProcess
from benchmarks.support.composing import ALWAYS
from benchmarks.support.machine import manifest
from engine.config import BatchingConfig
from engine.dtype import choose_dtype
from engine.transformers import (
    LoadedModel,
    TransformersEngine,
    load_model,
    prepare,
    run_on_short_lived_thread,
    usable_threads,
    use_one_thread,
)
from engine.transformers.governor import ThreadGovernor
from engine.transformers.loading import choose_device
from kvcache import CodecName, Segment, TieredStore

# Prompt tokens a step: on a GPU a whole prompt, as nothing runs beside it here.
_PREFILL_CHUNK = {"cpu": 512, "cuda": 8192}
_DISK_BYTES = 256 << 30
# Beside the segments that a cell needs, for what the allocator rounds up.
_SLACK = 1.15
_SLACK_BYTES = 64 << 20

log = logging.getLogger(__name__)


class UnknownModel(ValueError):
    """Neither a published architecture (``--weights random``) nor a model that can be loaded."""


@dataclass(frozen=True)
class Settings:
    """``suite``: one of ``SUITES`` by name, or any other. ``models``: names of architectures with random weights, else
    ``demo``, ids or folders. ``kind``: how random weights are held, None: as they fit (``lab.weights``). ``rounds`` and
    ``peers``: the suite's own where None. ``deadline_s``: no round begins that would not end by then."""

    suite: str | Suite = "quick"
    models: tuple[str, ...] = ("demo",)
    weights: Literal["real", "random"] = "real"
    device: str = "auto"
    dtype: str = "auto"
    rounds: int | None = None
    peers: tuple[str, ...] | None = None
    contexts: tuple[int, ...] | None = None
    folder: Path | None = None
    kind: Kind | None = None
    deadline_s: float | None = None


OpenPeers = Callable[[Sequence[str], str | Path, int, int], tuple[list[PeerProcess], dict[str, str]]]
"""Starts peers on a model's folder, for a number of tokens of context and of CPU threads: those that run, and why the
others do not."""
FindModel = Callable[[str], "str | Path"]
"""Where a model's files are: an id stays an id, ``demo`` becomes a folder."""


Save = Callable[[dict[str, Any]], None]
"""Takes the result as far as there is one, after every round of every context."""


def run(
    settings: Settings,
    report: Callable[[str], None],
    find_model: FindModel = lambda name: name,
    open_peers: OpenPeers | None = None,
    save: Save = lambda result: None,
) -> dict[str, Any]:
    """Measure; the result has ``rows``, ``builds``, ``models``, ``ceilings``, ``machine``, what was ``skipped`` and
    what ``failed``: neither a cell nor a model that fails loses what others gave. Raises ``UnknownModel``."""
    unknown = [name for name in settings.models if settings.weights == "random" and name not in ARCHITECTURES]
    if unknown:
        raise UnknownModel(f"no architecture is called {unknown[0]}; there are: {', '.join(ARCHITECTURES)}")
    return asyncio.run(_Run(settings, report, find_model, open_peers, save).all())


class HeldStore(TieredStore):
    """A store that writes nothing before it must: for modes that read no file, writing would only take time."""

    def put(self, segment: Segment, *, durable: bool = True) -> bool:
        return super().put(segment, durable=False)


class _Run:
    def __init__(
        self,
        settings: Settings,
        report: Callable[[str], None],
        find_model: FindModel,
        open_peers: OpenPeers | None,
        save: Save,
    ) -> None:
        suite = settings.suite if isinstance(settings.suite, Suite) else SUITES[settings.suite]
        cells = tuple(c for c in suite.cells if settings.contexts is None or c.context_tokens in settings.contexts)
        peers = suite.peers if settings.peers is None else settings.peers
        self._suite = replace(suite, cells=cells, rounds=settings.rounds or suite.rounds, peers=peers)
        self._settings, self._report, self._save = settings, report, save
        self._find_model, self._open_peers = find_model, open_peers
        self._device = choose_device(settings.device)
        self._dtype = choose_dtype(settings.dtype, self._device)
        self._threads = usable_threads()
        self._begin = time.perf_counter()
        self._ceilings: Ceilings | None = None
        self._rows: list[dict[str, Any]] = []
        self._builds: list[dict[str, Any]] = []
        self._models: dict[str, dict[str, Any]] = {}
        self._skipped: list[dict[str, str]] = []
        self._failed: list[dict[str, str]] = []

    async def all(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="recallkv-lab-", dir=self._settings.folder) as name:
            folder = Path(name)
            self._report("measuring what this machine can do at best")
            drive = folder if self._suite.reads_disk else None
            self._ceilings = run_on_short_lived_thread(
                lambda: measured(self._device, self._dtype, drive), self._threads
            )
            self._free()
            use_one_thread()
            try:
                for model in self._settings.models:
                    try:
                        await self._measure_model(model, self._ceilings, folder)
                    except Exception as error:
                        # A model's edge: one that cannot be made must not lose the others.
                        log.exception("%s: not measured further", model)
                        self._fail(model, "model", error)
                    self._free()
            finally:
                torch.set_num_threads(self._threads)
        self._save(self._result())
        return self._result()

    def _result(self) -> dict[str, Any]:
        assert self._ceilings is not None
        return {
            "suite": self._suite.name,
            "machine": manifest(self._device, str(self._dtype).removeprefix("torch.")),
            "ceilings": asdict(self._ceilings),
            "rounds": self._suite.rounds,
            "models": self._models,
            "rows": self._rows,
            "builds": self._builds,
            "skipped": self._skipped,
            "failed": self._failed,
            "seconds": round(time.perf_counter() - self._begin, 1),
        }

    async def _measure_model(self, name: str, ceilings: Ceilings, folder: Path) -> None:
        self._report(f"{name}: making the model")
        begin = time.perf_counter()
        model, size, kind = run_on_short_lived_thread(lambda: self._load(name), self._threads)
        suite, too_long = self._suite.within(model.context)
        for cell in too_long:
            self._skip(name, _cell(cell), f"the model's context is {model.context} tokens")
        if kind == "fp8":
            small = run_on_short_lived_thread(lambda: small_flops(self._device, self._dtype), self._threads)
            ceilings = self._ceilings = replace(ceilings, small_flops=small)
        layout = model.fingerprint.layout
        weight_bytes = 1 if kind == "fp8" else self._dtype.itemsize
        floors = Floors(size, ceilings, weight_bytes, self._dtype.itemsize, layout.bytes_per_token)
        self._models[name] = {
            "parameters": size.parameters,
            "weights": self._settings.weights,
            "weights_kind": kind,
            "distinct_layers": distinct_layers(size, self._dtype, self._device) if kind == "shared" else size.layers,
            "layers": size.layers,
            "dtype": layout.dtype,
            "bytes_per_token": layout.bytes_per_token,
            "prefill_chunk": _PREFILL_CHUNK[self._device.type],
            "load_s": round(time.perf_counter() - begin, 1),
        }
        draw = draw_of(model, self._settings.weights)
        with self._peers(name, suite) as peers:
            for codec in suite.codecs:
                await self._measure_cells(name, model, suite, floors, draw, peers, codec, folder)

    def _free(self) -> None:
        """Give the device's memory back that nothing holds any more."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _load(self, name: str) -> tuple[LoadedModel, Size, Kind]:
        if self._settings.weights == "real":
            loaded = load_model(self._find_model(name), device=self._settings.device, dtype=self._settings.dtype)
            return loaded, Size.of(loaded.model.config), "full"
        longest = max(cell.context_tokens + cell.query_tokens for cell in self._suite.cells) + 64
        return random_model(name, longest, self._device, self._dtype, self._settings.kind)

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
        store_bytes = _store_bytes(suite, floors.bytes_per_token)
        engine = self._engine(name, model, where, codec, store_bytes, writes=suite.reads_disk)
        try:
            for context, queries in suite.by_context():
                for requests in suite.requests:
                    if (reason := self._short_of_memory(suite, context, queries, requests, floors)) is not None:
                        self._skip(name, f"{context}+{queries} tokens, {requests} at once", reason)
                        continue
                    bench = ContextBench(
                        engine,
                        where,
                        draw,
                        floors,
                        suite,
                        context,
                        queries,
                        peers,
                        codec,
                        requests,
                        _PREFILL_CHUNK[self._device.type],
                    )
                    await self._measure_context(name, bench, suite)
                    peers[:] = [peer for peer in peers if f"peer:{peer.name}" not in bench.failed_peers]
        finally:
            engine.catalogue.clear()  # what was held back is written when a store is closed
            await engine.close()

    async def _measure_context(self, name: str, bench: ContextBench, suite: Suite) -> None:
        """All rounds, the result saved after each; an error here is of the whole context."""
        rows, builds = len(self._rows), len(self._builds)
        known = {(row["model"], row["context_tokens"]) for row in self._builds}
        took = 0.0
        for number in range(suite.rounds + 1):
            if self._settings.deadline_s is not None and self._elapsed() + took > self._settings.deadline_s:
                for cell in bench.cells():
                    self._skip(name, f"{_cell(cell)}, from round {number} on", "no time was left")
                break
            self._report(f"{name} {bench.cells()[0].context_tokens} tokens, round {number}/{suite.rounds}")
            begin = time.perf_counter()
            try:
                await bench.run_round(number)
            except Exception as error:
                # A context's edge: as a cell's.
                log.exception("%s: a context cannot be built", name)
                for cell in bench.cells():
                    self._fail(name, _cell(cell), error)
                break
            took = time.perf_counter() - begin
            self._rows[rows:] = [asdict(row) for row in bench.rows(name, ALWAYS.high.share)]
            built = bench.build_row(name)
            if built is not None and (name, built.context_tokens) not in known:
                self._builds[builds:] = [asdict(built)]
            self._save(self._result())
        for cell in bench.cells():
            if cell.query_tokens in bench.failed:
                self._failed.append({"model": name, "what": _cell(cell), "reason": bench.failed[cell.query_tokens]})
        for mode, reason in bench.failed_peers.items():
            self._skip(name, f"{mode} at {bench.cells()[0].context_tokens} tokens", reason)

    def _elapsed(self) -> float:
        return time.perf_counter() - self._begin

    def _short_of_memory(
        self, suite: Suite, context: int, queries: Sequence[int], requests: int, floors: Floors
    ) -> str | None:
        """Why these cells cannot be measured on this GPU; None where they can."""
        if self._device.type != "cuda":
            return None
        self._free()
        # Each request's own keys and values: twice while they grow, and once more where a context is copied into them.
        sequences = 3 * requests * (context + max(queries) + suite.answer_tokens) * floors.bytes_per_token
        needed = sequences + _store_bytes(replace(suite, cells=(Cell(context, 0),)), floors.bytes_per_token)
        free = torch.cuda.mem_get_info(self._device)[0]
        return None if needed <= free else f"needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free"

    def _engine(
        self, name: str, model: LoadedModel, folder: Path, codec: CodecName, store_bytes: int, *, writes: bool
    ) -> TransformersEngine:
        store = (TieredStore if writes else HeldStore)(
            folder,
            device=self._device,
            device_bytes=store_bytes,
            host_bytes=store_bytes,
            disk_bytes=_DISK_BYTES,
            codec=codec,
        )
        chunk = _PREFILL_CHUNK[self._device.type]
        batching = BatchingConfig(prefill_chunk=chunk)
        governor = ThreadGovernor(self._threads, adaptive=False)
        engine = TransformersEngine(model, store, model_id=name, batching=batching, composing=ALWAYS, governor=governor)
        use_one_thread()
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

    def _fail(self, model: str, what: str, error: BaseException) -> None:
        self._failed.append({"model": model, "what": what, "reason": said(error)})


def _cell(cell: Cell) -> str:
    return f"{cell.context_tokens}+{cell.query_tokens} tokens"


def _store_bytes(suite: Suite, bytes_per_token: int) -> int:
    """Bytes of the segments that the largest cell stores: a chain for each request, and pages for each fidelity."""
    chains = max(suite.requests) * bool(set(suite.modes) & set(CHAINED))
    pages = len(suite.fidelities) if suite.composes else 0
    longest = max((cell.context_tokens for cell in suite.cells), default=0)
    return int(_SLACK * (chains + pages) * longest * bytes_per_token) + _SLACK_BYTES


def random_model(
    name: str, context: int, device: torch.device, dtype: torch.dtype, kind: Kind | None = None
) -> tuple[LoadedModel, Size, Kind]:
    """An architecture of :data:`ARCHITECTURES` with random weights, checked and ready, for ``context`` tokens."""
    architecture = ARCHITECTURES[name]
    config = architecture.config(context)
    size = Size.of(config)
    kind = kind or choose_kind(size, dtype, device)
    network = random_network(architecture, context, device, dtype, kind)
    return prepare(network, word_tokenizer(config.vocab_size)), size, kind


def draw_of(model: LoadedModel, weights: str) -> Draw:
    """Give prose for a real model, any tokens for random weights."""
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
