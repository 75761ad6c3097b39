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
from engine.config import CompositionConfig
from engine.transformers.attention.sequence_kv import SequenceKV
from engine.transformers.composing import Composer, PlacedPart
from engine.transformers.loading import LoadedModel
from engine.transformers.runner import ModelRunner, Work
from kvcache import Certificate, Repair, Segment, TieredStore
from kvcache.divergence import divergence


class PageBuilder:
    """Builds one page in steps of up to ``step_tokens``, on the engine's thread. A step that ``interrupt`` breaks off
    is taken again later."""

    def __init__(
        self,
        model: LoadedModel,
        store: TieredStore,
        config: CompositionConfig,
        probes: Sequence[PageProbe],
        step_tokens: int,
        interrupt: Callable[[], bool],
    ) -> None:
        assert model.rotation is not None, "keys that cannot be moved are not built into pages"
        self._store = store
        self._config = config
        self._probes = probes
        self._runner = ModelRunner(model.model)
        self._composer = Composer(model, self._runner, step_tokens, interrupt)

    def n_tokens(self, request: PageRequest) -> int:
        """Return the length of the longest sequence that building takes."""
        behind = max(Prompt(request.lead).n_tokens, Prompt(request.context).n_tokens)
        asked = max((len(probe.tokens) for probe in self._probes), default=0)
        return len(request.header.token_ids) + behind + Prompt(request.parts).n_tokens + asked

    def build(self, request: PageRequest, salt: str) -> Generator[None, None, bool]:
        """Compute, certify and store a page; returns whether it was stored."""
        segment = self._store.as_read((yield from self._composer.build_page(request, salt)))
        context, page = Prompt((request.header, *request.context)).token_ids, Prompt(request.parts).token_ids
        certificate = yield from self._certified(segment, context, page)
        return self._store.put(segment.certified(certificate))

    def _certified(
        self, segment: Segment, context: tuple[int, ...], page: tuple[int, ...]
    ) -> Generator[None, None, Certificate]:
        """Compose the page behind ``context`` at each fidelity and compare with full prefill."""
        before = self._composer.empty(len(context))
        yield from self._composer.extend(before, context)
        exact = before.fork(len(page))
        yield from self._composer.extend(exact, page)
        repairs: dict[Fidelity, Repair] = {"high": self._config.high, "fast": self._config.fast}
        found: dict[str, list[tuple[float, float]]] = {fidelity: [] for fidelity in repairs}
        for asked in self._probes:
            wanted = len(asked.answer)
            expected = yield from self._composer.run(Work(exact.fork(len(asked.tokens)), asked.tokens, wanted))
            for fidelity, repair in repairs.items():
                got = yield from self._composed(before, segment, context + page, asked, repair)
                found[fidelity].append(divergence(expected, got))
        return certificate_of(found)

    def _composed(
        self, before: SequenceKV, segment: Segment, known: tuple[int, ...], asked: PageProbe, repair: Repair
    ) -> Generator[None, None, torch.Tensor]:
        """Compute the logits of the answer with the page composed behind ``before``, which holds the first of
        ``known``."""
        begin = before.n_tokens
        asked_ids = known + asked.turns
        kv = before.fork(len(known) - begin + len(asked.tokens))
        parts = [PlacedPart(segment, part, begin + part.begin) for part in segment.parts]
        settled = self._composer.compose(kv, parts, asked_ids, repair)
        yield
        logits = yield from self._composer.fill(kv, asked_ids, settled.todo)
        rest = asked.answer[:-1]
        if rest:
            logits = torch.cat([logits, self._runner.forward([Work(kv, rest, len(rest))])])
        return logits
