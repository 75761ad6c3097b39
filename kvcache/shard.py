"""Parts of a segment by layers and heads.

A model that runs on several devices (tensor or pipeline parallel) has its keys and values there in pieces: each rank
some of the layers and some of the heads. A shard file holds one such piece, so that ranks write and read without
each other; any cut can be read from files of any other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"l(\d+)-(\d+)of(\d+)\.h(\d+)-(\d+)of(\d+)")


@dataclass(frozen=True, order=True)
class Shard:
    """Layers ``layers[0]`` to ``layers[1]`` and key/value heads ``heads[0]`` to ``heads[1]`` (half-open) of a model
    that has ``of`` = (layers, heads). Raises ``ValueError`` on an empty or impossible range."""

    layers: tuple[int, int]
    heads: tuple[int, int]
    of: tuple[int, int]

    def __post_init__(self) -> None:
        for (begin, end), n in zip((self.layers, self.heads), self.of, strict=True):
            if not 0 <= begin < end <= n:
                raise ValueError(f"{begin} to {end} is no range of {n}")

    @classmethod
    def whole(cls, layers: int, heads: int) -> Shard:
        return cls((0, layers), (0, heads), (layers, heads))

    @classmethod
    def of_rank(cls, layers: int, heads: int, rank: int, world: int) -> Shard:
        """Return the shard of tensor-parallel rank ``rank`` of ``world`` holds. Where there are more ranks than heads,
        heads are held several times over, as vLLM does it."""
        if heads >= world:
            share = heads // world
            own = (rank * share, (rank + 1) * share)
        else:
            head = rank * heads // world
            own = (head, head + 1)
        return cls((0, layers), own, (layers, heads))

    @property
    def is_whole(self) -> bool:
        return self.area == self.of[0] * self.of[1]

    @property
    def area(self) -> int:
        """Number of (layer, head) pairs."""
        return (self.layers[1] - self.layers[0]) * (self.heads[1] - self.heads[0])

    def overlap(self, other: Shard) -> Shard | None:
        """Return the shard that both hold. Raises ``ValueError`` when they are of models of different shapes."""
        if self.of != other.of:
            raise ValueError(f"shards of {self.of} and of {other.of}")
        layers = max(self.layers[0], other.layers[0]), min(self.layers[1], other.layers[1])
        heads = max(self.heads[0], other.heads[0]), min(self.heads[1], other.heads[1])
        if layers[0] >= layers[1] or heads[0] >= heads[1]:
            return None
        return Shard(layers, heads, self.of)

    def within(self, other: Shard) -> tuple[slice, slice]:
        """Find the place of this one in ``other``'s tensors: slices of layers and of heads."""
        return tuple(
            slice(mine[0] - theirs[0], mine[1] - theirs[0])
            for mine, theirs in ((self.layers, other.layers), (self.heads, other.heads))
        )  # type: ignore[return-value]

    @property
    def name(self) -> str:
        """As it stands in a file's name and header."""
        (a, b), (c, d), (n_layers, n_heads) = self.layers, self.heads, self.of
        return f"l{a}-{b}of{n_layers}.h{c}-{d}of{n_heads}"

    @classmethod
    def parse(cls, name: str) -> Shard:
        """Return the shard with this ``name``. Raises ``ValueError``."""
        found = _NAME.fullmatch(name)
        if found is None:
            raise ValueError(f"'{name}' names no shard")
        a, b, n_layers, c, d, n_heads = (int(group) for group in found.groups())
        return cls((a, b), (c, d), (n_layers, n_heads))


def complete(shards: list[Shard]) -> bool:
    """Say whether the shards are all of one model's layers and heads, none held twice."""
    if not shards or any(shard.of != shards[0].of for shard in shards):
        return False
    disjoint = all(a.overlap(b) is None for i, a in enumerate(shards) for b in shards[:i])
    return disjoint and sum(shard.area for shard in shards) == shards[0].of[0] * shards[0].of[1]
