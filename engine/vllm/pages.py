"""Pages under vLLM: computed, stored, and certified by what the workers say of them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import replace

from engine.base import GenerateRequest, PageRequest, Piece, Prompt, Sampling
from engine.certificate import PageProbe, certificate_of
from engine.errors import NotScored
from engine.vllm.intake import Intake
from engine.vllm.plan import Composition, RequestPlan, StoredRun
from engine.vllm.planning import Planned, page_parts, page_request, without_weighing
from kvcache import Certificate

log = logging.getLogger(__name__)


class Pages:
    """Builds pages through ``intake``."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def build(self, request: PageRequest, salt: str, probes: Sequence[PageProbe]) -> bool:
        """Compute, store and certify a page, behind whatever users ask; returns whether there is one then."""
        key = await self.store(request, salt)
        if key is None:
            return False
        try:
            certificate = await self._certified(request, key, probes)
        except NotScored:  # an expected end: memories are deleted, and segments evicted, while pages are built
            log.info("page %s was gone before it was certified", key[:12])
            return False
        return self._intake.stored.catalogue.certify(key, certificate)

    async def store(self, request: PageRequest, salt: str = "") -> str | None:
        """Compute and store a page without a certificate; returns its key, or None where it could not be stored."""
        await self._intake.get_ready()
        if not self._intake.can_compose:
            return None
        prompt, keep = page_request(request, self._intake.stored.behind(salt, request.header.token_ids).key)
        asked = GenerateRequest("page", prompt, Sampling(max_tokens=1), salt=salt)
        self._intake.check(asked)
        planned = self._intake.plan(asked)
        planned = self._intake.with_room(replace(planned, plan=replace(planned.plan, keeps=(keep,))))
        if not planned.plan.keeps:
            return None
        await self._intake.run(planned)
        key = keep.key(prompt.token_ids)
        await self._intake.until_stored([key])
        return None if self._intake.stored.catalogue.tier_of(key) is None else key

    async def _certified(self, request: PageRequest, key: str, probes: Sequence[PageProbe]) -> Certificate:
        """Compose the page behind the context at each fidelity and compare with full prefill. Raises ``NotScored`` when
        the page is gone meanwhile."""
        assert self._intake.composing is not None, "a page is built only where it can be composed"
        before = Prompt((request.header, *request.context)).token_ids
        page = Prompt(request.parts).token_ids
        start = len(Prompt((request.header, *request.lead)).token_ids)
        source = StoredRun(key, len(before), len(page), 0, len(before) - start)
        repairs = {"high": self._intake.composing.high, "fast": self._intake.composing.fast}
        found: dict[str, list[tuple[float, float]]] = {fidelity: [] for fidelity in repairs}
        for probe in probes:
            tokens = before + page + probe.tokens
            try:
                exact = await self.score(tokens, len(probe.answer))
                for fidelity, repair in repairs.items():
                    composition = Composition(
                        page_parts(request, len(before)), without_weighing(repair).strategy, repair.share
                    )
                    other = await self.score(tokens, len(probe.answer), (source,), composition)
                    found[fidelity].append(await self.divergence(exact, other))
            finally:
                await self._intake.llm.collective_rpc("recallkv_forget_scores")
        return certificate_of(found)

    async def score(
        self,
        token_ids: Sequence[int],
        n: int,
        sources: tuple[StoredRun, ...] = (),
        composition: Composition | None = None,
    ) -> str:
        """Run a prompt, from sources as far as they go, and keep the next-token distributions of its last ``n`` tokens
        in the workers; returns the name they are kept under."""
        name = uuid.uuid4().hex
        plan = RequestPlan(sources, (), composition, name, n)
        prompt = Prompt((Piece("turns", tuple(token_ids)),))
        request = GenerateRequest("score", prompt, Sampling(max_tokens=1), salt=name)
        self._intake.check(request)
        await self._intake.get_ready()
        await self._intake.run(Planned(request, plan))
        return name

    async def divergence(self, exact: str, other: str) -> tuple[float, float]:
        """Return the mean KL in nats and the share of equal likeliest tokens between two scored prompts. Raises
        ``NotScored`` when one of them was not, because a source of it was gone."""
        answers = await self._intake.llm.collective_rpc("recallkv_divergence", args=(exact, other))
        found = next((answer for answer in answers if answer is not None), None)
        if found is None:
            raise NotScored("a segment of a scored prompt is gone")
        return found[0], found[1]
