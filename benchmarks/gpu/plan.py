"""What is measured, at its full size and for a rehearsal."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.lab.suites import MEMOS_CONTEXTS, SUITES, Cell, Suite
from benchmarks.lab.weights import Kind


@dataclass(frozen=True)
class Decoding:
    """Streams side by side: their number, the tokens behind each, and the steps."""

    streams: tuple[int, ...]
    contexts: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class Plan:
    """``small``, ``middle`` and ``large`` stand for the models of 8, 32 and 72 billion parameters; ``checked`` is the
    model that correctness is checked with end to end. ``shapes`` (key heads, query heads, width of a head) and
    ``lengths`` (tokens) are what attention is checked over; ``product``: width of the large matrix product; ``copied``:
    bytes of a copy; ``written``: bytes of the file."""

    name: str
    device: str
    small: str
    middle: str
    large: str
    large_kind: Kind | None
    checked: str
    table: Suite
    tiers: Suite
    decoding: Decoding
    shapes: tuple[tuple[int, int, int], ...]
    lengths: tuple[int, ...]
    check_cell: Cell
    product: int
    copied: int
    written: int
    dtype: str = "bfloat16"


def full(device: str) -> Plan:
    """The run on a GPU."""
    return Plan(
        name="full",
        device=device,
        small="qwen3-8b",
        middle="qwen3-32b",
        large="qwen2.5-72b",
        large_kind=None,
        checked="qwen3-0.6b",
        table=SUITES["memos-table"],
        tiers=SUITES["memos-tiers"],
        decoding=Decoding((1, 8, 16), (2048, MEMOS_CONTEXTS["long"]), 64),
        shapes=((3, 9, 64), (8, 32, 128), (8, 64, 128), (2, 8, 64)),
        lengths=(1, 2, 9, 63, 64, 65, 257, 1024, 3001, 9000),
        check_cell=Cell(2773, 303),
        product=8192,
        copied=1 << 30,
        written=1 << 30,
    )


def rehearsal(device: str) -> Plan:
    """Every stage at a size for which a CPU needs seconds."""
    cells = tuple(Cell(context, query) for context in (600, 150, 60) for query in (96, 32, 17))
    table = replace(SUITES["memos-table"], cells=cells, rounds=1)
    return Plan(
        name="rehearsal",
        device=device,
        small="tiny",
        middle="tiny",
        large="tiny",
        large_kind="shared",
        checked="tiny",
        table=table,
        tiers=replace(SUITES["memos-tiers"], cells=(Cell(600, 17), Cell(60, 17)), rounds=1),
        decoding=Decoding((1, 4), (64, 300), 8),
        shapes=((3, 9, 64), (2, 16, 128)),
        lengths=(1, 9, 64, 257),
        check_cell=Cell(1100, 40),
        product=512,
        copied=8 << 20,
        written=8 << 20,
    )
