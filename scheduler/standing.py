"""The memories that are in every prompt of their cube: pinned ones, the profile, and standing instructions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from memory import Memory

# Why a memory is in every prompt of its cube.
STANDING = ("pinned", "profile", "standing")


@dataclass(frozen=True)
class StandingLimits:
    """Bounds on the standing instructions of one cube in a prompt; the oldest are left out first. Pinned memories and
    the profile are not counted."""

    instructions: int = field(default=16, metadata={"range": (0, 1000)})
    tokens: int = field(default=512, metadata={"range": (0, 1 << 20)})


def why_standing(memory: Memory) -> str:
    """Say why a memory is in every prompt of its cube."""
    if memory.pinned:
        return "pinned"
    return "standing" if memory.kind == "instruction" else "profile"


def within(
    memories: Sequence[Memory], limits: StandingLimits, n_tokens: Callable[[str], int]
) -> tuple[list[Memory], list[Memory]]:
    """Return one cube's standing memories in their order, and the instructions that the bounds leave out."""
    left_out: list[Memory] = []
    n = used = 0
    for memory in reversed([memory for memory in memories if why_standing(memory) == "standing"]):
        n, used = n + 1, used + n_tokens(memory.text)
        if left_out or n > limits.instructions or used > limits.tokens:
            left_out.append(memory)
    gone = {memory.id for memory in left_out}
    return [memory for memory in memories if memory.id not in gone], left_out[::-1]
