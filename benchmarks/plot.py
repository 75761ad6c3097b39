"""Pictures of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_COLOURS = {"text": "#9aa5b1", "resident": "#1f7a5c", "host": "#4ba3c3", "disk": "#c9822b"}
_LABELS = {
    "text": "text: full prefill",
    "resident": "KV resident",
    "host": "KV from host memory",
    "disk": "KV from disk",
}


def plot_ttft(result: dict[str, Any], path: Path) -> None:
    """Bars of time to first token by mode for each context length, with the floor of the query pass as a line."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    contexts = sorted({row["context_tokens"] for row in result["rows"]})
    figure, axes = plt.subplots(
        1, len(contexts), figsize=(4.4 * len(contexts) + 0.6, 3.4), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, context in zip(axes[0], contexts, strict=True):
        rows = [row for row in result["rows"] if row["context_tokens"] == context]
        _draw_context(axis, rows)
    machine = result["machine"]
    where = machine["device"] if machine["device"] != "cpu" else f"{machine['cores']} CPU cores"
    figure.suptitle(f"Time to first token: {result['model']} model on {where}, {machine['dtype']}", fontsize=12)
    figure.supxlabel("seconds (bars: median of the rounds; whiskers: range)", fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_context(axis: Any, rows: list[dict[str, Any]]) -> None:
    for i, row in enumerate(rows):
        ttft = row["ttft_s"]
        spread = [[ttft["p50"] - ttft["min"]], [ttft["max"] - ttft["p50"]]]
        axis.barh(i, ttft["p50"], xerr=spread, color=_COLOURS[row["mode"]], height=0.62, error_kw={"lw": 1})
        note = f"{ttft['p50']:.2f} s" + ("" if row["mode"] == "text" else f"  ({1 / row['ratio_to_text']:.0f}x)")
        axis.annotate(note, (ttft["max"], i), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    axis.axvline(rows[0]["floor_s"], color="#333333", lw=1, ls=":")
    axis.annotate(
        "floor: the query alone",
        (rows[0]["floor_s"], len(rows) - 0.55),
        xytext=(4, 0),
        textcoords="offset points",
        fontsize=8,
        color="#333333",
    )
    axis.set_yticks(range(len(rows)), [_LABELS[row["mode"]] for row in rows])
    axis.tick_params("y", length=0)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(0, max(row["ttft_s"]["max"] for row in rows) * 1.3)
    axis.set_title(f"{rows[0]['context_tokens']:,} tokens of memory + {rows[0]['query_tokens']} of query", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
