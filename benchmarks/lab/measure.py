"""Measures the cells of one context on one engine: every mode in every round, the modes taking turns.

A round makes a new context, builds it once, and asks each of the suite's queries behind it in every mode, so that
nothing is found that the round did not store itself. The first round warms up and does not count; in it outputs are
compared. Times to first token are those of the engine: from handing in token ids to the first token, on a GPU too,
since the token is on the host then.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from benchmarks.lab.ceilings import Floors
from benchmarks.lab.outputs import Outputs, References, compute_context, references, tapped
from benchmarks.lab.samples import BuildRow, BuildSamples, Row, Samples, join
from benchmarks.lab.suites import CHAINED, MODES, Cell, Suite
from benchmarks.peers import PeerFailed, PeerProcess
from benchmarks.suites.ttft import drop_page_cache
from benchmarks.support.composing import ADMITTED
from benchmarks.support.stats import interval
from engine.base import Delta, Fidelity, GenerateRequest, PageRequest, Piece, PieceReport, Prompt, Sampling, Started
from engine.transformers import ModelRunner, SequenceKV, TransformersEngine, Work
from engine.transformers.composing import Composer, finished
from kvcache import CodecName, Segment, chain_key, root_key

log = logging.getLogger(__name__)

Draw = Callable[[int, int], tuple[int, ...]]
"""Token ids from (how many, seed)."""
_HEADER_TOKENS = 32
_PAGE_TOKENS = 512
_COMPOSED_SALT = "composed"


class ServedOtherwise(Exception):
    """A request's memories did not come from where the mode says: its time is that of something else."""


@dataclass(frozen=True)
class Answer:
    ttft_s: float
    token_ids: tuple[int, ...]


class ContextBench:
    """Measures the cells of one context. ``codec`` is only told, the engine's store has it; ``chunk`` is the engine's
    number of prompt tokens a step.

    ``failed`` has, by cell, what went wrong in it: such a cell is measured no further, the others are.
    """

    def __init__(
        self,
        engine: TransformersEngine,
        folder: Path,
        draw: Draw,
        floors: Floors,
        suite: Suite,
        context_tokens: int,
        queries: Sequence[int],
        peers: Sequence[PeerProcess] = (),
        codec: CodecName = "none",
        requests: int = 1,
        chunk: int = 512,
    ) -> None:
        self._engine, self._folder, self._draw, self._floors = engine, folder, draw, floors
        self._suite, self._peers, self._codec = suite, list(peers), codec
        self._context, self._queries, self._requests, self._chunk = context_tokens, tuple(queries), requests, chunk
        self._seed = 1 + 1000 * context_tokens
        self.built = BuildSamples()
        self.samples = {query: Samples() for query in self._queries}
        self.failed: dict[int, str] = {}
        self.failed_peers: dict[str, str] = {}

    async def run_round(self, number: int) -> None:
        """Measure every cell in every mode once; round 0 only warms up and compares outputs. An exception means that
        the context could not be built."""
        contexts = [self._fresh(self._context) for _ in range(self._requests)]
        built = BuildSamples()
        try:
            for step in _turned(["prefill", "build"], number):
                await self._prefill(built) if step == "prefill" else await self._build(contexts, built)
            for fidelity in self._suite.built_fidelities:
                await self._build_pages(contexts[0], fidelity, built)
            if number:
                self._keep_builds(built)
            for query_tokens in self._queries:
                await self._measure_cell(number, contexts, query_tokens)
        finally:
            self._engine.catalogue.clear()

    async def _measure_cell(self, number: int, contexts: Sequence[tuple[int, ...]], query_tokens: int) -> None:
        if query_tokens in self.failed:
            return
        queries = [self._fresh(query_tokens) for _ in range(self._requests)]
        try:
            taken = await self._ask_all(number, contexts, queries)
            if number:
                join(self.samples[query_tokens], taken)
            elif self._requests == 1:
                self.samples[query_tokens].outputs = await self._compare(contexts[0], queries[0])
        except Exception as error:
            # A cell's edge: what fails in one (memory, say) must not lose the others.
            log.exception("%d + %d tokens: not measured further", self._context, query_tokens)
            self.failed[query_tokens] = said(error)

    def _keep_builds(self, taken: BuildSamples) -> None:
        for mode, times in taken.build.items():
            self.built.build[mode] += times
        self.built.store += taken.store
        self.built.prefill += taken.prefill

    def _fresh(self, n_tokens: int) -> tuple[int, ...]:
        self._seed += 1
        return self._draw(n_tokens, self._seed)

    # -- building ----------------------------------------------------------------------------------------------

    async def _prefill(self, built: BuildSamples) -> None:
        prompt = Prompt((Piece("turns", self._fresh(self._context)),))
        answer = await self._generate(prompt, 1, direct=True)
        built.prefill.append(answer.ttft_s)

    async def _build(self, contexts: Sequence[tuple[int, ...]], built: BuildSamples) -> None:
        if not set(self._suite.modes) & set(CHAINED):
            return
        if self._suite.reads_disk:
            self._engine.store.flush()
        for context in contexts:
            begin = time.perf_counter()
            await self._engine.build(Prompt((Piece("header", context, storable=True),)))
            end = time.perf_counter()
            built.build["chain"].append(end - begin)
            if self._suite.reads_disk:
                self._engine.store.flush()
                built.store.append(time.perf_counter() - end)

    async def _build_pages(self, context: tuple[int, ...], fidelity: str, built: BuildSamples) -> None:
        salt = _COMPOSED_SALT + fidelity
        begin = time.perf_counter()
        segments = await self._engine.on_model(lambda runner: self._pages(runner, context, salt))
        for segment in segments:
            self._engine.store.put(self._engine.store.as_read(segment))
        built.build[f"composed:{fidelity}"].append(time.perf_counter() - begin)
        if self._suite.reads_disk:
            self._engine.store.flush()

    def _pages(self, runner: ModelRunner, context: tuple[int, ...], salt: str) -> list[Segment]:
        """The context's pages, computed in the reverse of the order they are asked for in: each behind other
        neighbours than it will have. Certified without measuring: here they are composed whatever they differ by."""
        composer = Composer(self._engine.model, runner, _PAGE_TOKENS)
        header, *pages = _pieces(context)
        backwards = Prompt((header, *reversed(pages)))
        kv = composer.empty(backwards.n_tokens)
        finished(composer.extend(kv, backwards.token_ids))
        made = []
        for i, page in enumerate(backwards.pieces[1:], start=1):
            request = PageRequest(header, (page,), backwards.pieces[1:i])
            made.append(composer.cut_page(kv, request, salt).certified(ADMITTED))
        runner.wait()
        return made

    # -- asking ------------------------------------------------------------------------------------------------

    async def _ask_all(
        self, number: int, contexts: Sequence[tuple[int, ...]], queries: Sequence[tuple[int, ...]]
    ) -> Samples:
        """Every mode once."""
        taken = Samples()
        answers: dict[str, tuple[int, ...]] = {}
        for name in _turned([*self._modes(), *(f"peer:{peer.name}" for peer in self._peers)], number):
            if name.startswith("peer:"):
                try:
                    answers[name] = self._ask_peer(name.removeprefix("peer:"), contexts[0], queries[0], taken)
                except PeerFailed as error:
                    self._drop_peer(name, str(error).partition("\n")[0], taken)
            else:
                answers[name] = await self._ask(name, contexts, queries, taken)
        if "resident" in answers and self._requests == 1:
            taken.bare.append(await self._bare(contexts[0], queries[0]))
        for name, tokens in answers.items():
            # What comes from a stored chain is compared among itself: direct prefill is rounded otherwise.
            like = "resident" if name in CHAINED and "resident" in answers and self._requests == 1 else "direct"
            taken.equal[name].append(tokens == answers[like][: len(tokens)])
        return taken

    def _modes(self) -> list[str]:
        """Composed modes once for each fidelity: ``composed:high``."""
        plain = [mode for mode in self._suite.modes if not mode.startswith("composed")]
        composed = [mode for mode in self._suite.modes if mode.startswith("composed")]
        return plain + [f"{mode}:{fidelity}" for mode in composed for fidelity in self._suite.fidelities]

    async def _ask(
        self, mode: str, contexts: Sequence[tuple[int, ...]], queries: Sequence[tuple[int, ...]], taken: Samples
    ) -> tuple[int, ...]:
        if mode.startswith("composed"):
            contexts, queries = contexts[:1], queries[:1]
        self._bring(mode)
        asked = zip(contexts, queries, strict=True)
        answers = await asyncio.gather(*[self._answer(mode, c, q, self._suite.answer_tokens) for c, q in asked])
        taken.ttft[mode].append(statistics.median(answer.ttft_s for answer in answers))
        return tuple(token for answer in answers for token in answer.token_ids)

    async def _answer(self, mode: str, context: tuple[int, ...], query: tuple[int, ...], n_tokens: int) -> Answer:
        kind, _, fidelity = mode.partition(":")
        if kind.startswith("composed"):
            prompt = Prompt((*_pieces(context), Piece("turns", query)))
            return await self._generate(prompt, n_tokens, fidelity=fidelity, salt=_COMPOSED_SALT + fidelity)
        prompt = Prompt((Piece("header", context), Piece("turns", query)))
        return await self._generate(prompt, n_tokens, direct=kind == "direct", tier=kind)

    def _bring(self, mode: str) -> None:
        """Have everything stored in the tier that the mode begins with, and the files out of the page cache where that
        is the disk."""
        kind = mode.partition(":")[0]
        tier = kind.partition("-")[2] or "resident" if kind.startswith("composed") else kind
        if tier == "direct":
            return
        store = self._engine.store
        if tier != "disk":
            for entry in store.catalogue.entries():
                store.load(entry.key, self._engine.fingerprint)
        if tier != "resident":
            store.demote("host" if tier == "host" else "disk")
        if tier == "disk":
            drop_page_cache(self._folder)

    async def _generate(
        self,
        prompt: Prompt,
        n_tokens: int,
        *,
        direct: bool = False,
        tier: str | None = None,
        fidelity: str = "exact",
        salt: str = "",
    ) -> Answer:
        request = GenerateRequest(
            "lab",
            prompt,
            Sampling(max_tokens=n_tokens, temperature=0.0, ignore_eos=True),
            use_segments=not direct,
            fidelity=cast(Fidelity, fidelity),
            salt=salt,
        )
        begin, ttft_s, tokens = time.perf_counter(), 0.0, list[int]()
        async for event in self._engine.generate(request):
            if isinstance(event, Started):
                _check_sources(event.pieces, "computed" if direct else tier)
            elif isinstance(event, Delta):
                ttft_s = ttft_s or time.perf_counter() - begin
                tokens.extend(event.token_ids)
        return Answer(ttft_s, tuple(tokens))

    async def _bare(self, context: tuple[int, ...], query: tuple[int, ...]) -> float:
        """Seconds of a pass over the query behind resident keys and values, up to the first token's id."""
        self._bring("resident")
        segment = self._loaded(context)
        model = self._engine.model

        def run(runner: ModelRunner) -> float:
            kv = SequenceKV(model.fingerprint.layout, model.device, len(context) + len(query))
            kv.inject(segment, min_span=1)
            kv.reserve(len(query))
            runner.wait()
            begin = time.perf_counter()
            for at in range(0, len(query), self._chunk):
                logits = runner.forward([Work(kv, query[at : at + self._chunk])])
            logits.argmax(-1).tolist()
            return time.perf_counter() - begin

        return await self._engine.on_model(run)

    def _loaded(self, context: tuple[int, ...]) -> Segment:
        engine = self._engine
        return engine.store.load(chain_key(root_key(engine.fingerprint), context), engine.fingerprint).segment

    # -- outputs -----------------------------------------------------------------------------------------------

    async def _compare(self, context: tuple[int, ...], query: tuple[int, ...]) -> dict[str, Outputs]:
        """Compare each mode's logits with those of direct prefill."""
        model, chunk = self._engine.model, self._chunk

        def compute(runner: ModelRunner) -> References:
            return references(runner, model, compute_context(runner, model, context, chunk), query, chunk)

        expected = await self._engine.on_model(compute)
        found = {}
        with tapped(model) as tap:
            for mode in self._modes():
                self._bring(mode)
                await self._answer(mode, context, query, 1)
                found[mode] = expected.compare(tap.last, chained=mode in CHAINED)
        return found

    # -- peers -------------------------------------------------------------------------------------------------

    def _ask_peer(
        self, name: str, context: tuple[int, ...], query: tuple[int, ...], samples: Samples
    ) -> tuple[int, ...]:
        peer = next(peer for peer in self._peers if peer.name == name)
        mode = f"peer:{name}"
        direct = peer.direct(context + query)
        samples.own_direct[mode].append(direct.seconds)
        samples.own_build[mode].append(peer.build(context))
        answer = peer.cached(context, query)
        samples.ttft[mode].append(answer.seconds)
        return (answer.token_id,)

    def _drop_peer(self, mode: str, reason: str, taken: Samples) -> None:
        """Forget what it has measured so far: its process is gone."""
        self.failed_peers[mode] = reason
        self._peers = [peer for peer in self._peers if f"peer:{peer.name}" != mode]
        for samples in (taken, *self.samples.values()):
            for by_mode in (samples.ttft, samples.equal, samples.own_build, samples.own_direct):
                by_mode.pop(mode, None)

    # -- results -----------------------------------------------------------------------------------------------

    def rows(self, model: str, repaired: float) -> list[Row]:
        """Of all rounds so far. ``repaired``: share of composed tokens that is computed anew at ``high``."""
        order = [*MODES, "peer"]
        return [
            self._row(model, query, name, repaired)
            for query, samples in self.samples.items()
            for name in sorted(samples.ttft, key=lambda name: order.index(name.partition(":")[0]))
        ]

    def _row(self, model: str, query: int, mode: str, repaired: float) -> Row:
        samples = self.samples[query]
        kind, _, detail = mode.partition(":")
        times = samples.ttft[mode]
        direct = samples.own_direct[mode] if kind == "peer" else samples.ttft["direct"]
        resident = samples.ttft.get("resident")
        floor_s = self._floor(query, kind, detail, repaired)
        is_chain = kind in CHAINED
        outputs = samples.outputs.get(mode)
        same = all(samples.equal[mode]) and (outputs is None or outputs.bitwise is not False)
        is_bare = bool(samples.bare) and is_chain
        ttft_s = interval(times)
        return Row(
            model=model,
            context_tokens=self._context,
            query_tokens=query,
            mode=mode if kind == "peer" else kind,
            ttft_s=ttft_s,
            build_s=self._build_s(mode, samples),
            store_s=_median(self.built.store) if is_chain else None,
            speedup_percent=round(100 * (1 - paired(times, direct)), 2),
            floor_s=round(floor_s, 9),
            ratio_to_floor=round(ttft_s.p50 / floor_s, 4),
            ratio_to_resident=None if not resident else round(paired(times, resident), 4),
            outputs_equal=same,
            outputs=outputs,
            bare_s=_median(samples.bare) if is_bare else None,
            ratio_to_bare=round(paired(times, samples.bare), 4) if is_bare else None,
            rounds=len(times),
            fidelity=detail if kind.startswith("composed") else None,
            codec=self._codec if kind.startswith("composed") and len(self._suite.codecs) > 1 else None,
            requests=self._requests,
        )

    def _build_s(self, mode: str, samples: Samples) -> float | None:
        kind, _, fidelity = mode.partition(":")
        if kind == "direct":
            return None
        if kind == "peer":
            return _median(samples.own_build[mode])
        return _median(self.built.build[f"composed:{fidelity}" if kind.startswith("composed") else "chain"])

    def _floor(self, query: int, kind: str, detail: str, repaired: float) -> float:
        if kind == "direct":
            return self._floors.prefill(self._context + query)
        if kind.startswith("composed"):
            anew = round(self._context * repaired) if detail == "high" else 0
            tier = "disk" if kind.endswith("disk") else "resident"
            return self._floors.loaded(tier, self._context - anew, query + anew)
        return self._floors.loaded("resident" if kind == "peer" else kind, self._context, query)

    def build_row(self, model: str) -> BuildRow | None:
        built = self.built.build.get("chain")
        if not built:
            return None
        floor_s, build_s = self._floors.prefill(self._context), interval(built)
        return BuildRow(
            model=model,
            context_tokens=self._context,
            build_s=build_s,
            prefill_s=interval(self.built.prefill),
            ratio_to_prefill=round(paired(built[:: self._requests], self.built.prefill), 4),
            store_s=_median(self.built.store),
            nbytes=self._context * self._floors.bytes_per_token,
            floor_s=round(floor_s, 9),
            ratio_to_floor=round(build_s.p50 / floor_s, 4),
        )

    def cells(self) -> list[Cell]:
        return [Cell(self._context, query) for query in self._queries]


def said(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".rstrip(": ")


def paired(times: Sequence[float], others: Sequence[float]) -> float:
    """Median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def _median(times: Sequence[float]) -> float | None:
    return round(statistics.median(times), 6) if times else None


def _check_sources(pieces: Sequence[PieceReport], expected: str | None) -> None:
    """A composed context (``expected`` None) has its pages from segments, another one is from where it is expected.
    Raises ``ServedOtherwise``."""
    if expected is None:
        computed = sum(piece.source == "computed" for piece in pieces[1:-1])
        if computed:
            raise ServedOtherwise(f"{computed} of {len(pieces) - 2} pages were computed, not composed")
    elif pieces[0].source != expected:
        raise ServedOtherwise(f"{expected} was served from {pieces[0].source}")


def _turned(names: list[str], number: int) -> list[str]:
    """The names from another one on in each round, so that none always follows the same one."""
    at = number % len(names)
    return names[at:] + names[:at]


def _pieces(context: tuple[int, ...]) -> list[Piece]:
    """A context as a header and pages."""
    header, rest = context[:_HEADER_TOKENS], context[_HEADER_TOKENS:]
    pages = [rest[at : at + _PAGE_TOKENS] for at in range(0, len(rest), _PAGE_TOKENS)]
    return [
        Piece("header", header),
        *(Piece("memory", tokens, label=f"page{number}@1") for number, tokens in enumerate(pages)),
    ]
