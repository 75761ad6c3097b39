"""What is measured: cells by suite."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kvcache import CODECS, CodecName

# Tokens of MemOS's published evaluation, and their names there.
MEMOS_CONTEXTS = {"short": 583, "medium": 2773, "long": 6064}
MEMOS_QUERIES = {"short": 167, "medium": 303, "long": 953}
MODES = ("direct", "resident", "host", "disk", "composed", "composed-disk")
_ALL = MODES[:-1]
# Modes whose context comes from a stored chain.
CHAINED = ("resident", "host", "disk")


@dataclass(frozen=True)
class Cell:
    """Tokens of context that may be activated, and of the query behind it."""

    context_tokens: int
    query_tokens: int


@dataclass(frozen=True)
class Suite:
    """``requests``: how many requests at once each mode is measured with. ``answer_tokens``: how many tokens each
    request generates."""

    name: str
    cells: tuple[Cell, ...]
    modes: tuple[str, ...] = _ALL
    rounds: int = 5
    fidelities: tuple[str, ...] = ("high",)
    codecs: tuple[CodecName, ...] = ("none",)
    requests: tuple[int, ...] = (1,)
    peers: tuple[str, ...] = ()
    answer_tokens: int = 8

    @property
    def composes(self) -> bool:
        return any(mode.startswith("composed") for mode in self.modes)

    @property
    def built_fidelities(self) -> tuple[str, ...]:
        """Return the fidelities that pages are built for; none where nothing is composed."""
        return self.fidelities if self.composes else ()

    @property
    def reads_disk(self) -> bool:
        """Say whether any mode reads files; otherwise nothing is written."""
        return any(mode.endswith("disk") for mode in self.modes)

    def by_context(self) -> list[tuple[int, tuple[int, ...]]]:
        """Each context with its queries, in the cells' order."""
        contexts = dict.fromkeys(cell.context_tokens for cell in self.cells)
        return [(c, tuple(cell.query_tokens for cell in self.cells if cell.context_tokens == c)) for c in contexts]

    def within(self, context: int) -> tuple[Suite, list[Cell]]:
        """The suite for a model of ``context`` tokens, and the cells that are too long for it."""
        fits = [cell for cell in self.cells if cell.context_tokens + cell.query_tokens + self.answer_tokens <= context]
        return replace(self, cells=tuple(fits)), [cell for cell in self.cells if cell not in fits]


def _grid(contexts: tuple[int, ...], queries: tuple[int, ...]) -> tuple[Cell, ...]:
    return tuple(Cell(context, query) for context in contexts for query in queries)


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("quick", _grid((512, 2048), (64,)), rounds=3, peers=("transformers",)),
        Suite(
            "memos-table",
            _grid(tuple(reversed(MEMOS_CONTEXTS.values())), tuple(reversed(MEMOS_QUERIES.values()))),
            modes=("direct", "resident", "host"),
            rounds=3,
            answer_tokens=2,
        ),
        Suite(
            "memos-tiers",
            _grid((MEMOS_CONTEXTS["long"], MEMOS_CONTEXTS["short"]), (MEMOS_QUERIES["short"],)),
            fidelities=("high", "fast"),
            rounds=2,
            answer_tokens=2,
        ),
        Suite("scaling", _grid(tuple(512 << i for i in range(9)), (64,)), modes=("direct", "resident", "host", "disk")),
        Suite("tiers", _grid((1024, 4096), (64,)), modes=("direct", "resident", "host", "disk"), rounds=9),
        Suite(
            "composed",
            _grid((1024, 4096), (64,)),
            modes=("direct", "resident", "composed"),
            fidelities=("high", "fast"),
        ),
        Suite(
            "codecs",
            _grid((2048,), (64,)),
            modes=("direct", "composed-disk"),
            fidelities=("fast",),
            codecs=tuple(CODECS),
        ),
        Suite("concurrency", _grid((1024,), (64,)), modes=("direct", "resident"), rounds=3, requests=(1, 2, 4, 8)),
    )
}
