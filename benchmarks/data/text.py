"""Seeded prose to measure with: sentences that differ, so that no two prompts begin alike by chance."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

_NAMES = "Anna Boris Clara Daniel Elena Farid Greta Hugo Ines Jonas Karin Luis Marta Nils Olga Pedro".split()
_PLACES = "Lisbon Oslo Kyoto Quito Turin Ghent Malmo Porto Riga Seville Tampere Utrecht Vienna Zagreb".split()
_THINGS = "a violin|a red bicycle|an old map|a garden|a boat|two cats|a bakery|a telescope|a camera".split("|")
_TIMES = "in spring|last winter|on Mondays|before breakfast|at the weekend|every summer|after work".split("|")


def sentence(rng: random.Random) -> str:
    """One sentence about a person, a place and a thing."""
    return (
        f"{rng.choice(_NAMES)} from {rng.choice(_PLACES)} bought {rng.choice(_THINGS)} {rng.choice(_TIMES)} "
        f"for {rng.randint(2, 999)} euros and told {rng.choice(_NAMES)} about it."
    )


def tokens_of_text(encode: Callable[[str], Sequence[int]], n_tokens: int, seed: int) -> tuple[int, ...]:
    """Exactly ``n_tokens`` token ids of seeded prose."""
    rng = random.Random(seed)
    tokens: list[int] = []
    while len(tokens) < n_tokens:
        tokens.extend(encode(sentence(rng) + "\n"))
    return tuple(tokens[:n_tokens])
