"""Does it pay to keep a memory's keys and values on this machine? Break-even advice, memory by memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.base import ChatMessage, MemoryText, Renderer
from kvcache import SegmentView
from memory import Memory
from scheduler.prediction.cubes import Cube, Cubes
from scheduler.prediction.preloader import Preloader

# Expected uses are counted over this number of turns of the cube.
TURNS = 100
# What a page costs beside its tokens: it is built behind a lead and checked behind another context.
_BUILD_FACTOR = 4.0

Prefill = Callable[[int, int], float]


class Priced(Protocol):
    """The engine, as far as advice needs it."""

    @property
    def prompts(self) -> Renderer: ...

    def prefill_s(self, n_tokens: int, behind: int) -> float | None: ...


@dataclass(frozen=True)
class Costs:
    """The costs on this machine. ``prefill_s``: seconds to compute tokens behind others;
    ``load_bytes_s``: bytes per second from disk; ``repaired``: the share of composed tokens that is computed anew."""

    prefill_s: Prefill
    load_bytes_s: float
    bytes_per_token: int
    repaired: float


@dataclass(frozen=True)
class Advice:
    """One memory. Seconds and bytes; ``expected_uses`` over the next 100 turns of its cube; ``break_even_uses``: from
    that many uses on, building it pays (None: never)."""

    memory_id: str
    tokens: int
    bytes: int
    build_s: float
    compute_s: float
    load_s: float
    saved_s: float
    expected_uses: float
    break_even_uses: float | None
    activated: bool
    verdict: str


def advise(
    tokens: Mapping[str, int], uses_per_turn: Mapping[str, float], activated: frozenset[str], costs: Costs, behind: int
) -> list[Advice]:
    """Advise on memories by id, what saves most first. ``tokens``: their lengths; ``behind``: how many tokens usually
    stand before them."""
    found = [_one(id, n, uses_per_turn.get(id, 0.0), id in activated, costs, behind) for id, n in tokens.items()]
    return sorted(found, key=lambda advice: -advice.saved_s * advice.expected_uses)


def _one(id: str, n_tokens: int, uses_per_turn: float, activated: bool, costs: Costs, behind: int) -> Advice:
    nbytes = n_tokens * costs.bytes_per_token
    compute_s = costs.prefill_s(n_tokens, behind)
    load_s = nbytes / costs.load_bytes_s
    saved_s = compute_s * (1.0 - costs.repaired) - load_s
    build_s = _BUILD_FACTOR * compute_s
    expected = uses_per_turn * TURNS
    break_even = build_s / saved_s if saved_s > 0 else None
    return Advice(
        memory_id=id,
        tokens=n_tokens,
        bytes=nbytes,
        build_s=round(build_s, 6),
        compute_s=round(compute_s, 6),
        load_s=round(load_s, 6),
        saved_s=round(saved_s, 6),
        expected_uses=round(expected, 3),
        break_even_uses=None if break_even is None else round(break_even, 2),
        activated=activated,
        verdict=_verdict(expected, break_even),
    )


def _verdict(expected: float, break_even: float | None) -> str:
    if break_even is None:
        return "not worth it: loading takes as long as computing"
    if expected < break_even:
        return "not worth it: too few uses are expected"
    return "worth it"


def summary(found: Sequence[Advice]) -> str:
    """Summarise the advice for a cube in one sentence."""
    worth = [advice for advice in found if advice.verdict == "worth it"]
    if not found:
        return "There is nothing in this cube."
    if not worth:
        return f"Not worth it: none of {len(found)} memories is expected to be used often enough."
    saved = sum(advice.saved_s * advice.expected_uses for advice in worth)
    mb = sum(advice.bytes for advice in worth) / 1e6
    return f"{len(worth)} of {len(found)} memories are worth their {mb:.1f} MB: {saved:.1f} s saved in {TURNS} turns."


class Advisor:
    """Advises on the memories of a cube, from what is known of its turns and of this machine."""

    def __init__(self, engine: Priced, stored: SegmentView, cubes: Cubes, preloader: Preloader) -> None:
        self._engine = engine
        self._stored = stored
        self._cubes = cubes
        self._preloader = preloader

    def advise(self, tenant: str, cube_id: str, memories: Sequence[Memory], repaired: float) -> list[Advice]:
        """Say whether it pays to keep the keys and values of these memories, what saves most first. ``repaired``: the
        share of their tokens that is computed anew. Raises ``ValueError`` where the engine did not measure this
        machine."""
        if self._engine.prefill_s(1, 0) is None:
            raise ValueError("this machine was not measured at start")
        texts = [MemoryText(memory.label, memory.text) for memory in memories]
        prompt = self._engine.prompts.render([ChatMessage("user", "-")], texts)
        tokens = {memory_id(piece.label): len(piece.token_ids) for piece in prompt.memories()}
        cube = self._cubes.get((tenant, cube_id)) or Cube()
        costs = Costs(
            prefill_s=lambda n, behind: self._engine.prefill_s(n, behind) or 0.0,
            load_bytes_s=self._preloader.bytes_s,
            bytes_per_token=self._stored.fingerprint.layout.bytes_per_token,
            repaired=repaired,
        )
        paged = self._stored.behind(tenant, cube.header or ()).holding([memory.label for memory in memories])
        activated = frozenset(memory_id(label) for entry in paged for label in entry.labels)
        behind = len(prompt.pieces[0].token_ids)
        return advise(tokens, cube.history.uses_per_turn(), activated, costs, behind=behind)


def memory_id(label: str | None) -> str:
    """Return a memory's id from its label."""
    return (label or "").partition("@")[0]
