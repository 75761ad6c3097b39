"""Pictures and the table of what memories are worth to answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LABELS = {
    "none": "no memory",
    "random": "other memories of the conversation",
    "evidence": "the evidence alone, as text",
    "full": "all of the history, as text",
    "text": "retrieved, as text",
    "exact": "retrieved, KV exact",
    "high": "retrieved, KV high",
    "fast": "retrieved, KV fast",
    "naive": "retrieved, caches concatenated",
}
_COLOURS = {"exact": "#1f7a5c", "high": "#1f7a5c", "fast": "#1f7a5c", "naive": "#b5473c"}
_TEXT = "#9aa5b1"
_ORDER = ("evidence", "full", "text", "exact", "high", "fast", "naive", "random")


def plot_answers(result: dict[str, Any], path: Path) -> None:
    """Draw bars of the gain over no memory, and of the share of text's gain that is kept, with their 95% intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = {row["condition"]: row for row in result["rows"]}
    shown = [rows[name] for name in _ORDER if name in rows]
    kept = [rows[name] for name in ("text", "exact", "high", "fast", "naive") if name in rows]
    sizes = [len(shown), len(kept)]
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(8, 0.36 * sum(sizes) + 2.4), height_ratios=sizes, layout="constrained"
    )
    _draw(top, shown, "gain", "gain over no memory, nats a token of the gold answer")
    _draw(bottom, kept, "kept", "share of the gain of text that is kept")
    bottom.axvline(1.0, color="#333333", lw=1, ls=":")
    figure.suptitle(
        f"What memories bring to the right answer: {result['model']} model, {result['questions']} questions of "
        f"{result['conversations']} conversations",
        fontsize=11,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def figure_lines(result: dict[str, Any]) -> list[str]:
    """Return the table as lines of Markdown, with the sentences below it."""
    recall = f"{result['evidence_recall']:.0%}"
    chance = f"{1 / result['options']:.0%}"
    lines = [
        f"**Answers** (LoCoMo, {result['questions']} questions of {result['conversations']} conversations, "
        f"{result['top_k']} memories each, which hold {recall} of the evidence turns; likelihood of the gold answer, "
        "teacher-forced, nats a token; 95% intervals of a paired bootstrap, conversations as clusters; choice: how "
        f"often it gains more than {result['options'] - 1} answers to other questions, {chance} by chance; "
        f"commit {result['machine']['commit']}):",
        "",
        "| memories come as | gain over none | of text's | bits an answer | choice | tokens computed |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        choice, kept = row["choice"], row["kept"]
        is_none = row["condition"] == "none"
        cells = (
            LABELS[row["condition"]],
            "-" if is_none else _shown(row["gain"], 2),
            "-" if is_none or kept is None else _shown(kept, 3),
            "-" if is_none else f"{row['bits_an_answer']['value']:.1f}",
            "-" if choice is None else f"{choice['value']:.0%}",
            f"{row['computed_tokens']:,.0f} of {row['prompt_tokens']:,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *(f"- {sentence}" for sentence in result["sentences"])]


def _shown(figure: dict[str, float], digits: int) -> str:
    return f"{figure['value']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def _draw(axis: Any, rows: list[dict[str, Any]], figure: str, label: str) -> None:
    highest = max(row[figure]["high"] for row in rows)
    for i, row in enumerate(rows):
        found = row[figure]
        spread = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
        colour = _COLOURS.get(row["condition"], _TEXT)
        axis.barh(i, found["value"], xerr=spread, color=colour, height=0.62, error_kw={"lw": 1, "capsize": 2})
        note = f"{found['value']:.2f}  [{found['low']:.2f}, {found['high']:.2f}]"
        at = (max(found["high"], 0.0), i)
        axis.annotate(note, at, xytext=(6, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), [LABELS[row["condition"]] for row in rows], fontsize=9)
    axis.tick_params("y", length=0)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(min(0.0, *(row[figure]["low"] for row in rows)), highest * 1.32)
    axis.set_xlabel(label + " (whiskers: 95% interval)", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
