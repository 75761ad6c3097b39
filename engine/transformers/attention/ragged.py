"""A forward pass of new tokens of many sequences side by side: ``[1, total, ...]``.

Everything but attention treats them alike. Attention is done sequence by sequence, and within one over *spans*: each
injected segment where it lies, the sequence's own tail, and the new tokens among themselves. The partial results are
merged by their log-sum-exp (Milakov and Gimelshein, arXiv 1805.02867; the split over spans is the one of
Flash-Decoding), which is exact up to rounding. Rotary embedding is in the keys, so the spans' physical order does not
matter.

In a composed sequence the tail begins with keys and values that were computed elsewhere and moved here. Its new
tokens need not lie at the end: each goes to the slot of its position, over what was there, and sees the slots
before it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch

from engine.transformers.attention.kernels.base import MakeTable, Table, aligned_mask
from engine.transformers.attention.sequence_kv import SequenceKV, Span
from engine.transformers.upload import upload
from kvcache.repair import Signal

Rows = slice | torch.Tensor


class NewTokens(NamedTuple):
    """One layer's numbers of new tokens: query [1, heads, new, head_dim], key and value [kv_heads, new, head_dim],
    keys already rotated."""

    layer: int
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scale: float

    def rows(self, rows: slice) -> NewTokens:
        """Give those of one sequence."""
        return NewTokens(self.layer, self.query[:, :, rows], self.key[:, rows], self.value[:, rows], self.scale)


class Attention(Protocol):
    """A way to compute the attention of a model's passes; chosen when the model is loaded."""

    @property
    def table(self) -> MakeTable | None:
        """Make a table of sequences with one new token each, where there are kernels that work on such a table."""

    def attend(self, batch: RaggedBatch, new: NewTokens) -> torch.Tensor:
        """Write one layer's new keys and values to where the batch says, and attend to all that each token sees;
        returns [1, total, heads, head_dim]."""


@dataclass(frozen=True, eq=False)
class Slots:
    """New tokens that do not follow the tail's end: the tail slot of each, int64 [new], ascending. Each sees the
    tail's slots up to its own, of which there are ``seen`` in all, but not the ``hidden`` ones, bool [seen]."""

    index: torch.Tensor
    seen: int
    hidden: torch.Tensor | None = None
    is_run: bool = False
    """Whether the slots are neighbours and nothing is hidden: each token sees one slot more than the one before it."""

    @functools.cached_property
    def visible(self) -> torch.Tensor:
        """Return what each token sees, bool [new, seen]."""
        visible = torch.arange(self.seen, device=self.index.device)[None] <= self.index[:, None]
        return visible if self.hidden is None else visible.logical_and_(~self.hidden[None])

    @functools.cached_property
    def mask(self) -> torch.Tensor:
        """Return the same, additive: 0 or -inf, float32."""
        return torch.zeros(self.visible.shape, device=self.index.device).masked_fill_(~self.visible, float("-inf"))

    @functools.cached_property
    def aligned_mask(self) -> torch.Tensor:
        """Return the same for kernels other than the CPU's, in bfloat16, which holds both numbers; cast where it must
        be."""
        return aligned_mask(self.visible, torch.bfloat16)


class Interrupted(Exception):
    """A pass was given up between two layers, because something more urgent has come. The sequences are as they were:
    they grow when a pass is through, and the same pass may be run again."""


class ShallowPassDone(Exception):
    """The first layers have been run, which is all that was wanted."""


@dataclass(eq=False)
class Probe:
    """A question that a forward pass is to answer about the sequence's memory; nothing of the pass is kept but this.

    Of a weighing ``signal`` [seen] tells of each slot of the tail, over all layers; of a comparison ``signal`` [new]
    tells of each new token, and the pass ends in the layer that is compared.
    """

    wanted: Signal
    signal: torch.Tensor | None = None

    def add(self, signal: torch.Tensor) -> None:
        self.signal = signal if self.signal is None else self.signal + signal


@dataclass(frozen=True, eq=False)
class Chunk:
    """New tokens of one sequence in a batch: rows ``begin`` to ``end`` of the ragged dimension. Without ``slots``
    they follow the tail."""

    kv: SequenceKV
    begin: int
    end: int
    slots: Slots | None = None
    probe: Probe | None = None

    @property
    def is_single(self) -> bool:
        """Say whether it is one token behind the tail."""
        return self.end - self.begin == 1 and self.slots is None


@dataclass(frozen=True, eq=False)
class RaggedBatch:
    """The part of a forward pass that attention needs to know; travels through the model's keyword arguments."""

    chunks: Sequence[Chunk]
    attention: Attention
    interrupt: Callable[[], bool] | None = None
    """Asked before each layer whether to give up (raising ``Interrupted``)."""
    wanted: torch.Tensor | None = None
    """Rows whose logits are wanted, int64: of the others the last layer need give keys and values only."""

    @functools.cached_property
    def parted(self) -> tuple[RaggedBatch, Singles | None]:
        """Return the batch without the sequences at its end that compute one token each, and those as a table, where
        there are kernels for that."""
        begin = len(self.chunks)
        while begin and self.chunks[begin - 1].is_single:
            begin -= 1
        singles = self.chunks[begin:]
        if not singles or self.attention.table is None:
            return self, None
        table = self.attention.table([chunk.kv.everything(1) for chunk in singles])
        return RaggedBatch(self.chunks[:begin], self.attention), Singles(singles[0].begin, table)

    @functools.cached_property
    def rounds(self) -> list[Round]:
        """Arrange all spans, each once: those that several sequences share are read from memory once. Spans of
        different rows go into one round, so that there are as many rounds as the sequence with the most spans has."""
        shared: dict[tuple[object, int], tuple[Span, list[range]]] = {}
        for chunk in self.chunks:
            for span in chunk.kv.spans:
                _, rows = shared.setdefault((span.of or id(span), span.n_tokens), (span, []))
                rows.append(range(chunk.begin, chunk.end))
        rounds: list[list[tuple[Span, list[range]]]] = []
        for span, rows in shared.values():
            taken = ({part for _, parts in other for part in parts} for other in rounds)
            fitting = next((other for other, parts in zip(rounds, taken, strict=True) if parts.isdisjoint(rows)), None)
            if fitting is None:
                rounds.append(fitting := [])
            fitting.append((span, rows))
        return [Round.of(spans) for spans in rounds]


@dataclass(frozen=True, eq=False)
class Singles:
    """The rows from ``begin`` on, a sequence each, and where those sequences lie."""

    begin: int
    table: Table


@dataclass(frozen=True, eq=False)
class Round:
    """Spans with the rows that see each, none of which sees two; and the rows of all in this order. Rows are a slice,
    or int64 [rows] where they are not neighbours."""

    spans: list[tuple[Span, Rows]]
    rows: Rows

    @staticmethod
    def of(spans: list[tuple[Span, list[range]]]) -> Round:
        spans = sorted(spans, key=lambda pair: pair[1][0].start)
        device = spans[0][0].keys.device
        rows = [part for _, parts in spans for part in parts]
        return Round([(span, _rows_of(parts, device)) for span, parts in spans], _rows_of(rows, device))


def _rows_of(parts: Sequence[range], device: torch.device) -> Rows:
    if all(after.start == before.stop for before, after in pairwise(parts)):
        return slice(parts[0].start, parts[-1].stop)
    return upload([row for part in parts for row in part], device)
