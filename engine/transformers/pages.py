"""Building pages: standalone segments that carry a certificate.

A page's tokens are computed behind the header and a lead of other memories, so that they look at something like what
will stand before them. The certificate is made behind yet another context: the page is composed there, as a request
would compose it, and compared with full prefill over probes made of its own text.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import torch

from engine.base import Fidelity, PageRequest, Prompt
from engine.certificate import PageProbe, certificate_of
from engine.placement import CompositionConfig
from engine.transformers.attention import Interrupted, SequenceKV
from engine.transformers.composition import place_part, probe
from engine.transformers.loading import LoadedModel
from engine.transformers.runner import ModelRunner, Work
from kvcache import Certificate, Composed, Lead, ModelView, Repair, Segment, SegmentStore
from kvcache.divergence import divergence


class PageBuilder:
    """Builds one page in steps of up to ``step_tokens``, on the engine's thread. A step that ``interrupt`` breaks off
    is taken again later."""

    def __init__(
        self,
        model: LoadedModel,
        store: SegmentStore,
        config: CompositionConfig,
        probes: Sequence[PageProbe],
        step_tokens: int,
        interrupt: Callable[[], bool],
    ) -> None:
        assert model.rotation is not None, "keys that cannot be moved are not built into pages"
        self._model = model
        self._rotation = model.rotation
        self._store = store
        self._config = config
        self._probes = probes
        self._step_tokens = step_tokens
        self._interrupt = interrupt
        self._runner = ModelRunner(model.model)

    def n_tokens(self, request: PageRequest) -> int:
        """The longest sequence that building takes."""
        behind = max(Prompt(request.lead).n_tokens, Prompt(request.context).n_tokens)
        asked = max((len(probe.tokens) for probe in self._probes), default=0)
        return len(request.header.token_ids) + behind + Prompt(request.parts).n_tokens + asked

    def build(self, request: PageRequest, salt: str) -> Generator[None, None, bool]:
        """Returns whether the page was stored."""
        header, lead = request.header.token_ids, Prompt(request.lead).token_ids
        page = Prompt(request.parts).token_ids
        start = len(header) + len(lead)
        kv = self._empty(start + len(page))
        yield from self._extended(kv, header + lead + page)
        keys, values = kv.copy_range(start, start + len(page))
        segment = Segment.standalone(
            ModelView(self._store.catalogue, self._model.fingerprint).behind(salt, header).key,
            self._model.fingerprint,
            start,
            [(part.token_ids, part.label) for part in request.parts],
            keys,
            values,
            lead=Lead(lead, frozenset(piece.label for piece in request.lead if piece.label is not None)),
        )
        segment = self._store.as_read(segment)
        certificate = yield from self._certified(segment, header + Prompt(request.context).token_ids, page)
        return self._store.put(segment.certified(certificate))

    def _empty(self, expected_tokens: int) -> SequenceKV:
        return SequenceKV(self._model.fingerprint.layout, self._model.device, expected_tokens)

    def _extended(self, kv: SequenceKV, token_ids: Sequence[int]) -> Generator[None, None, None]:
        """Compute these tokens behind what the sequence holds."""
        done = 0
        while done < len(token_ids):
            chunk = token_ids[done : done + self._step_tokens]
            yield from self._forward(Work(kv, chunk, 0))
            done += len(chunk)

    def _forward(self, work: Work) -> Generator[None, None, torch.Tensor]:
        """A step, as often as it takes to get through it."""
        while True:
            try:
                logits = self._runner.forward([work], self._interrupt)
                self._runner.wait()
            except Interrupted:
                yield
            else:
                yield
                return logits

    def _certified(
        self, segment: Segment, context: tuple[int, ...], page: tuple[int, ...]
    ) -> Generator[None, None, Certificate]:
        """Compose the page behind ``context`` at each fidelity and compare with full prefill."""
        before = self._empty(len(context))
        yield from self._extended(before, context)
        exact = before.fork(len(page))
        yield from self._extended(exact, page)
        repairs: dict[Fidelity, Repair] = {"high": self._config.high, "fast": self._config.fast}
        found: dict[str, list[tuple[float, float]]] = {fidelity: [] for fidelity in repairs}
        for asked in self._probes:
            wanted = len(asked.answer)
            expected = yield from self._forward(Work(exact.fork(len(asked.tokens)), asked.tokens, wanted))
            for fidelity, repair in repairs.items():
                got = yield from self._composed(before, segment, context + page, asked, repair)
                found[fidelity].append(divergence(expected, got))
        return certificate_of(found)

    def _composed(
        self, before: SequenceKV, segment: Segment, known: tuple[int, ...], asked: PageProbe, repair: Repair
    ) -> Generator[None, None, torch.Tensor]:
        """Logits of the answer with the page composed behind ``before``, which holds the first of ``known``."""
        begin = before.n_tokens
        asked_ids = known + asked.turns
        kv = before.fork(len(known) - begin + len(asked.tokens))
        kv.open_region(len(asked_ids) - begin)
        for part in segment.parts:
            place_part(kv, segment, part, begin + part.begin, self._rotation)
        spans = tuple(range(begin + part.begin, begin + part.end) for part in segment.parts)
        composed = Composed(spans, tuple(i == 0 for i in range(len(spans))))
        signal = probe(repair, composed, kv, asked_ids, begin, self._runner)
        yield
        chosen = repair.choose(composed, signal)
        todo = [*chosen, *range(len(known), len(asked_ids))]
        done = 0
        while done < len(todo):
            positions = todo[done : done + self._step_tokens]
            done += len(positions)
            tokens = [asked_ids[i] for i in positions]
            logits = yield from self._forward(Work(kv, tokens, int(done == len(todo)), positions))
        rest = asked.answer[:-1]
        if rest:
            logits = torch.cat([logits, self._runner.forward([Work(kv, rest, len(rest))])])
        return logits
