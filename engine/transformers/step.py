"""What one forward pass works on, and how it is chosen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.transformers.runner import Work
from engine.transformers.sequence import Choice, Group

# Logits are wanted of at most this many prompt tokens per step: those of 256 tokens are 50 to 150 MB.
_SCORED_TOKENS = 256
# A waiting prompt counts as this many tokens shorter per second, so that short ones cannot starve a long one.
_AGING_TOKENS_PER_S = 200.0


@dataclass(frozen=True, eq=False)
class Step:
    """The work of one forward pass: ``work`` is parallel to prompts (a chunk each), then streams."""

    prompts: list[tuple[Group, int]]
    streams: list[tuple[Group, Choice]]

    @property
    def groups(self) -> list[Group]:
        """Return the requests in it, each once."""
        return list({id(group): group for group, _ in (*self.prompts, *self.streams)}.values())

    @property
    def ended(self) -> list[Group]:
        """Return the requests whose prompts are computed with it, once their progress is counted."""
        return [group for group, _ in self.prompts if group.remaining == 0]

    @property
    def largest(self) -> Group:
        """Return the request with the most keys and values."""
        return max(self.groups, key=lambda group: group.held_tokens)

    @property
    def in_background(self) -> bool:
        """Say whether nobody waits for it."""
        return not self.streams and all(group.background for group, _ in self.prompts)

    @property
    def is_empty(self) -> bool:
        return not self.prompts and not self.streams

    @property
    def work(self) -> list[Work]:
        """Give the pass's work, before the progress of its prompts is counted."""
        prompts = [work_of(group, n) for group, n in self.prompts]
        return prompts + [Work(choice.kv, (choice.last_token,)) for _, choice in self.streams]


def pick(running: Sequence[Group], chunk: int, busy_chunk: int) -> Step:
    """Choose one token of each stream, and chunks of prompts: as many tokens as ``busy_chunk`` while streams go on, so
    that these keep moving, and as ``chunk`` else."""
    streams = [(group, choice) for group in running for choice in group.choices if not choice.finished]
    pending = [group for group in running if not group.choices and group.todo is not None]
    foreground = [group for group in pending if not group.background]
    if foreground or streams:
        pending = foreground
    # What nobody waits for is broken off when somebody comes.
    return Step(list(_chunks(pending, busy_chunk if streams else chunk)), streams)


def _chunks(pending: Sequence[Group], budget: int) -> Iterator[tuple[Group, int]]:
    """Give prompts out ``budget`` tokens: the shortest remaining one first, with aging."""
    now = time.perf_counter()
    scored = _SCORED_TOKENS
    for group in sorted(pending, key=lambda g: g.remaining - _AGING_TOKENS_PER_S * (now - g.arrived)):
        n = min(budget, group.remaining)
        if group.request.score_last:
            n = min(n, scored)
            scored -= n
        if n > 0:
            yield group, n
            budget -= n


def work_of(group: Group, n: int) -> Work:
    """Make work of the next ``n`` tokens of a prompt, with logits of its last one and of those before tokens to be
    scored."""
    positions = group.next_positions(n)
    tokens = tuple(group.token_ids[position] for position in positions)
    wanted = int(n == group.remaining and not group.background)
    if group.request.score_last:
        wanted = sum(position >= group.request.needed_from for position in positions)
    return Work(group.started_kv, tokens, wanted, None if group.composition is None else positions)
