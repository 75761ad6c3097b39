"""Measures the cells of a suite on one engine: every mode in every round, the modes taking turns.

A round makes a new context and a new query, so that nothing is found that the round did not store itself. The first
round warms up and does not count. Times to first token are those of the engine: from handing in token ids to the first
token, on a GPU too, since the token is on the host then.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from benchmarks.composing import ADMITTED
from benchmarks.lab.ceilings import Floors
from benchmarks.lab.suites import ANSWER_TOKENS, MODES, Cell, Suite
from benchmarks.peers import PeerFailed, PeerProcess
from benchmarks.stats import Interval, interval
from benchmarks.ttft import drop_page_cache
from engine.base import Delta, Fidelity, GenerateRequest, Piece, Prompt, Sampling, Started
from engine.transformers import ModelRunner, SequenceKV, TransformersEngine, Work
from kvcache import CodecName, Segment, chain_key, root_key

Draw = Callable[[int, int], tuple[int, ...]]
"""Token ids from (how many, seed)."""
_HEADER_TOKENS = 32
_PAGE_TOKENS = 512
_COMPOSED_SALT = "composed"


@dataclass(frozen=True)
class Answer:
    ttft_s: float
    token_ids: tuple[int, ...]


@dataclass
class Samples:
    """Of one cell, by mode, round after round. Seconds."""

    ttft: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    equal: defaultdict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    build: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    store: list[float] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)
    own_direct: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True)
class Row:
    """One mode in one cell. Times in seconds; ``speedup_percent`` is (direct - mode) / direct, of the pairs of a round,
    for peers against their own direct prefill; ``build_s`` until the context can be used, ``store_s`` from then until
    all of it is on disk."""

    model: str
    context_tokens: int
    query_tokens: int
    mode: str
    ttft_s: Interval
    build_s: float | None
    store_s: float | None
    speedup_percent: float
    floor_s: float
    ratio_to_floor: float
    ratio_to_resident: float | None
    outputs_equal: bool
    fidelity: str | None = None
    codec: str | None = None
    requests: int = 1


@dataclass(frozen=True)
class BuildRow:
    """Building a context against plain prefill of as many tokens by the same engine, in the same rounds."""

    model: str
    context_tokens: int
    build_s: Interval
    prefill_s: Interval
    ratio_to_prefill: float
    store_s: float
    nbytes: int
    floor_s: float
    ratio_to_floor: float


class CellBench:
    """Measures one cell. ``codec`` is only told, the engine's store has it."""

    def __init__(
        self,
        engine: TransformersEngine,
        folder: Path,
        draw: Draw,
        floors: Floors,
        suite: Suite,
        cell: Cell,
        peers: Sequence[PeerProcess] = (),
        codec: CodecName = "none",
        requests: int = 1,
    ) -> None:
        self._engine, self._folder, self._draw, self._floors = engine, folder, draw, floors
        self._suite, self._cell, self._peers = suite, cell, list(peers)
        self._codec, self._requests = codec, requests
        self._seed = 1 + 1000 * cell.context_tokens + cell.query_tokens
        self.failed: dict[str, str] = {}

    async def measure(self, report: Callable[[str], None]) -> Samples:
        samples = Samples()
        for number in range(self._suite.rounds + 1):
            kept = Samples() if number == 0 else samples
            report(f"{self._cell.context_tokens}+{self._cell.query_tokens} round {number}/{self._suite.rounds}")
            await self._round(number, kept)
            self._engine.store.clear()
        return samples

    def _fresh(self, n_tokens: int) -> tuple[int, ...]:
        self._seed += 1
        return self._draw(n_tokens, self._seed)

    # -- a round -----------------------------------------------------------------------------------------------

    async def _round(self, number: int, samples: Samples) -> None:
        contexts = [self._fresh(self._cell.context_tokens) for _ in range(self._requests)]
        queries = [self._fresh(self._cell.query_tokens) for _ in range(self._requests)]
        for step in _turned(["prefill", "build"], number):
            await self._prefill(samples) if step == "prefill" else await self._build(contexts, samples)
        for fidelity in self._fidelities():
            await self._build_pages(contexts[0], fidelity, samples)
        names = [*self._modes(), *(f"peer:{peer.name}" for peer in self._peers)]
        answers: dict[str, tuple[int, ...]] = {}
        for name in _turned(names, number):
            if name.startswith("peer:"):
                try:
                    answers[name] = self._ask_peer(name.removeprefix("peer:"), contexts[0], queries[0], samples)
                except PeerFailed as error:
                    self._drop_peer(name, str(error).partition("\n")[0], samples)
            else:
                answers[name] = await self._ask(name, contexts, queries, samples)
        for name, tokens in answers.items():
            samples.equal[name].append(tokens == answers["direct"][: len(tokens)])

    def _modes(self) -> list[str]:
        """Composed modes once for each fidelity: ``composed:high``."""
        plain = [mode for mode in self._suite.modes if not mode.startswith("composed")]
        composed = [mode for mode in self._suite.modes if mode.startswith("composed")]
        return plain + [f"{mode}:{fidelity}" for mode in composed for fidelity in self._suite.fidelities]

    def _fidelities(self) -> tuple[str, ...]:
        return self._suite.fidelities if any(mode.startswith("composed") for mode in self._suite.modes) else ()

    async def _prefill(self, samples: Samples) -> None:
        answer = await self._generate(Prompt((Piece("turns", self._fresh(self._cell.context_tokens)),)), 1, direct=True)
        samples.prefill.append(answer.ttft_s)

    async def _build(self, contexts: Sequence[tuple[int, ...]], samples: Samples) -> None:
        if not set(self._suite.modes) & {"resident", "host", "disk"}:
            return
        store = self._engine.store
        store.flush()
        for context in contexts:
            begin = time.perf_counter()
            await self._engine.build(Prompt((Piece("header", context, keep=True),)))
            built = time.perf_counter()
            store.flush()
            samples.build["chain"].append(built - begin)
            samples.store.append(time.perf_counter() - built)

    async def _ask(
        self, mode: str, contexts: Sequence[tuple[int, ...]], queries: Sequence[tuple[int, ...]], samples: Samples
    ) -> tuple[int, ...]:
        kind, _, fidelity = mode.partition(":")
        if kind.startswith("composed"):
            prompt = Prompt((*_pieces(contexts[0]), Piece("turns", queries[0])))
            self._bring(kind.partition("-")[2] or "resident")
            answer = await self._generate(prompt, ANSWER_TOKENS, fidelity=fidelity, salt=_COMPOSED_SALT + fidelity)
            samples.ttft[mode].append(answer.ttft_s)
            return answer.token_ids
        if kind != "direct":
            self._bring(kind)
        prompts = [
            Prompt((Piece("header", context), Piece("turns", query)))
            for context, query in zip(contexts, queries, strict=True)
        ]
        direct = kind == "direct"
        answers = await asyncio.gather(*[self._generate(p, ANSWER_TOKENS, direct=direct, tier=kind) for p in prompts])
        samples.ttft[mode].append(statistics.median(answer.ttft_s for answer in answers))
        return tuple(token for answer in answers for token in answer.token_ids)

    def _bring(self, mode: str) -> None:
        """Have everything stored in one tier, and the files out of the page cache where that is the disk."""
        store = self._engine.store
        if mode != "disk":
            for entry in store.entries():
                store.load(entry.key, self._engine.fingerprint)
        if mode != "resident":
            store.demote("host" if mode == "host" else "disk")
        if mode == "disk":
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
                source = event.pieces[0].source
                expected = "computed" if direct else tier
                assert expected is None or source == expected, f"{expected} was served from {source}"
            elif isinstance(event, Delta):
                ttft_s = ttft_s or time.perf_counter() - begin
                tokens.extend(event.token_ids)
        return Answer(ttft_s, tuple(tokens))

    def _ask_peer(
        self, name: str, context: tuple[int, ...], query: tuple[int, ...], samples: Samples
    ) -> tuple[int, ...]:
        peer = next(peer for peer in self._peers if peer.name == name)
        mode = f"peer:{name}"
        direct = peer.direct(context + query)
        samples.own_direct[mode].append(direct.seconds)
        samples.build[mode].append(peer.build(context))
        answer = peer.cached(context, query)
        samples.ttft[mode].append(answer.seconds)
        return (answer.token_id,)

    def _drop_peer(self, mode: str, reason: str, samples: Samples) -> None:
        """What it has measured so far is not told: its process is gone."""
        self.failed[mode] = reason
        self._peers = [peer for peer in self._peers if f"peer:{peer.name}" != mode]
        for by_mode in (samples.ttft, samples.equal, samples.build, samples.own_direct):
            by_mode.pop(mode, None)

    # -- pages -------------------------------------------------------------------------------------------------

    async def _build_pages(self, context: tuple[int, ...], fidelity: str, samples: Samples) -> None:
        salt = _COMPOSED_SALT + fidelity
        begin = time.perf_counter()
        segments = await self._engine.on_model(lambda runner: self._pages(runner, context, salt))
        for segment in segments:
            self._engine.store.put(self._engine.store.as_read(segment))
        samples.build[f"composed:{fidelity}"].append(time.perf_counter() - begin)
        self._engine.store.flush()

    def _pages(self, runner: ModelRunner, context: tuple[int, ...], salt: str) -> list[Segment]:
        """The context's pages, computed in the reverse of the order they are asked for in: each behind other
        neighbours than it will have. Certified without measuring: here they are composed whatever they differ by."""
        model = self._engine.model
        header, *pages = _pieces(context)
        backwards = Prompt((header, *reversed(pages))).token_ids
        kv = SequenceKV(model.fingerprint.layout, model.device, len(backwards))
        for at in range(0, len(backwards), _PAGE_TOKENS):
            runner.forward([Work(kv, backwards[at : at + _PAGE_TOKENS], 0)])
        made, start = [], len(header.token_ids)
        root = chain_key(root_key(model.fingerprint, salt), header.token_ids)
        for page in reversed(pages):
            keys, values = kv.copy_range(start, start + len(page.token_ids))
            lead = backwards[len(header.token_ids) : start]
            parts = [(page.token_ids, page.label)]
            made.append(
                Segment.standalone(root, model.fingerprint, start, parts, keys, values, lead=lead, certificate=ADMITTED)
            )
            start += len(page.token_ids)
        runner.wait()
        return made

    # -- results -----------------------------------------------------------------------------------------------

    def rows(self, model: str, samples: Samples, repaired: float) -> list[Row]:
        """``repaired``: share of composed tokens that is computed anew at ``high``."""
        order = [*MODES, "peer"]
        names = sorted(samples.ttft, key=lambda name: order.index(name.partition(":")[0]))
        return [self._row(model, name, samples, repaired) for name in names]

    def _row(self, model: str, mode: str, samples: Samples, repaired: float) -> Row:
        kind, _, detail = mode.partition(":")
        times = samples.ttft[mode]
        direct = samples.own_direct[mode] if kind == "peer" else samples.ttft["direct"]
        resident = samples.ttft.get("resident")
        floor_s = self._floor(kind, detail, repaired)
        built = samples.build.get(mode if kind in ("peer", "composed") else "chain")
        is_chain = kind in ("resident", "host", "disk")
        ttft_s = interval(times)
        return Row(
            model=model,
            context_tokens=self._cell.context_tokens,
            query_tokens=self._cell.query_tokens,
            mode=mode if kind == "peer" else kind,
            ttft_s=ttft_s,
            build_s=None if built is None or kind == "direct" else round(statistics.median(built), 6),
            store_s=round(statistics.median(samples.store), 6) if is_chain and samples.store else None,
            speedup_percent=round(100 * (1 - paired(times, direct)), 2),
            floor_s=round(floor_s, 9),
            ratio_to_floor=round(ttft_s.p50 / floor_s, 4),
            ratio_to_resident=None if not resident else round(paired(times, resident), 4),
            outputs_equal=all(samples.equal[mode]),
            fidelity=detail if kind.startswith("composed") else None,
            codec=self._codec if kind.startswith("composed") and len(self._suite.codecs) > 1 else None,
            requests=self._requests,
        )

    def _floor(self, kind: str, detail: str, repaired: float) -> float:
        context, query = self._cell.context_tokens, self._cell.query_tokens
        if kind == "direct":
            return self._floors.prefill(context + query)
        if kind.startswith("composed"):
            anew = round(context * repaired) if detail == "high" else 0
            tier = "disk" if kind.endswith("disk") else "resident"
            return self._floors.loaded(tier, context - anew, query + anew)
        return self._floors.loaded("resident" if kind == "peer" else kind, context, query)

    def build_row(self, model: str, samples: Samples) -> BuildRow | None:
        built = samples.build.get("chain")
        if not built:
            return None
        floor_s, build_s = self._floors.prefill(self._cell.context_tokens), interval(built)
        return BuildRow(
            model=model,
            context_tokens=self._cell.context_tokens,
            build_s=build_s,
            prefill_s=interval(samples.prefill),
            ratio_to_prefill=round(paired(built[:: self._requests], samples.prefill), 4),
            store_s=round(statistics.median(samples.store), 6),
            nbytes=self._cell.context_tokens * self._floors.bytes_per_token,
            floor_s=round(floor_s, 9),
            ratio_to_floor=round(build_s.p50 / floor_s, 4),
        )


def paired(times: Sequence[float], others: Sequence[float]) -> float:
    """Median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


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
