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


def plot_fidelity(result: dict[str, Any], path: Path) -> None:
    """KL against the share recomputed and against time to first token, a panel for each size of memories."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    measured = [row for row in result["rows"] if row["kl_mean"] is not None and row["build"] != "text"]
    sizes = list(dict.fromkeys((row["memories"], row["tokens_each"]) for row in measured))
    figure, panels = plt.subplots(len(sizes), 2, figsize=(10, 4 * len(sizes)), squeeze=False, layout="constrained")
    for line, size in zip(panels, sizes, strict=True):
        rows = [row for row in measured if (row["memories"], row["tokens_each"]) == size]
        for panel, x, label in (
            (line[0], "share_recomputed", "share of memory tokens computed anew"),
            (line[1], "ttft_ratio_to_text", "time to first token / full prefill"),
        ):
            _frontier(panel, rows, x)
            panel.set_xlabel(label)
            panel.set_ylabel("KL to full prefill, nats")
            panel.set_yscale("log")
            panel.set_title(f"{size[0]} memories of {size[1]} tokens", fontsize=11)
            panel.grid(visible=True, which="both", alpha=0.25)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _frontier(panel: Any, rows: list[dict[str, Any]], x: str) -> None:
    """A line for each way of building and repairing; the shipped settings are named."""
    series: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row[x] is not None:
            series.setdefault((row["build"], row["repair"]), []).append(row)
    colours = {"none": "C7", "first": "C0", "deviation": "C1", "attention": "C2", "lines": "C3"}
    markers = {"naive": "x", "single": "s", "pages": "o"}
    for (build, repair), points in series.items():
        points.sort(key=lambda row: row[x])
        name = "concatenated, not moved" if build == "naive" else f"{build}, {repair}"
        style = "-" if len(points) > 1 else "none"
        xs, ys = [row[x] for row in points], [row["kl_mean"] for row in points]
        panel.plot(
            xs, ys, linestyle=style, marker=markers[build], color=colours.get(repair, "C4"), label=name, markersize=5
        )
    for row in rows:
        if row["strategy"] in ("high", "fast") and row[x] is not None:
            panel.annotate(row["strategy"], (row[x], row["kl_mean"]), xytext=(-6, -16), textcoords="offset points")


_POLICIES = {
    "none": ("#9aa5b1", "nothing kept"),
    "lru": ("#4ba3c3", "least recently used"),
    "lfu": ("#8d7fbf", "least frequently used"),
    "predictor": ("#1f7a5c", "predictor"),
    "adversary": ("#b5473c", "wrong on purpose"),
    "oracle": ("#333333", "oracle (knows the future)"),
    "resident": ("#c9822b", "everything in memory"),
}


def plot_preload(result: dict[str, Any], path: Path) -> None:
    """Hit rate of each policy at each budget; with a model, times to first token beside it."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = result["rows"]
    timed = any(row["ttft_p50_s"] is not None for row in rows)
    figure, axes = plt.subplots(1, 1 + timed, figsize=(5.2 * (1 + timed), 3.8), squeeze=False, layout="constrained")
    _draw_hits(axes[0][0], rows)
    if timed:
        _draw_times(axes[0][1], rows)
    figure.suptitle(f"Preloading: {result['trace']}", fontsize=12)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_hits(axis: Any, rows: list[dict[str, Any]]) -> None:
    budgets = sorted({row["budget_bytes"] for row in rows})
    policies = [
        name for name in _POLICIES if name not in ("none", "resident") and any(r["policy"] == name for r in rows)
    ]
    width = 0.8 / len(policies)
    for i, name in enumerate(policies):
        found = {row["budget_bytes"]: row["hit_rate"] for row in rows if row["policy"] == name}
        places = [at + (i - (len(policies) - 1) / 2) * width for at in range(len(budgets))]
        bars = axis.bar(
            places, [found[b] for b in budgets], width * 0.92, color=_POLICIES[name][0], label=_POLICIES[name][1]
        )
        axis.bar_label(bars, fmt="%.2f", fontsize=7, padding=1)
    axis.set_xticks(range(len(budgets)), [f"{budget / 1e9:,.{2 if budget < 1e10 else 0}f} GB" for budget in budgets])
    axis.set_xlabel("memory budget", fontsize=9)
    axis.set_ylabel("hit rate", fontsize=9)
    axis.set_ylim(0, max(0.01, *(row["hit_rate"] for row in rows)) * 1.28)
    axis.legend(fontsize=7, frameon=False, ncols=2, loc="upper left")
    axis.spines[["top", "right"]].set_visible(False)


def _draw_times(axis: Any, rows: list[dict[str, Any]]) -> None:
    for i, row in enumerate(rows):
        colour = _POLICIES[row["policy"]][0]
        axis.barh(i, row["ttft_p50_s"], color=colour, height=0.6)
        axis.plot([row["ttft_p50_s"], row["ttft_p99_s"]], [i, i], color=colour, lw=1.5)
        axis.plot(row["ttft_p99_s"], i, marker="|", color=colour, ms=10)
        note = f"{row['ttft_p50_s']:.2f}, {row['ttft_p99_s']:.2f}"
        axis.annotate(note, (row["ttft_p99_s"], i), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), [_POLICIES[row["policy"]][1] for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(0, max(row["ttft_p99_s"] for row in rows) * 1.25)
    axis.set_xlabel("seconds to first token: median (bar) and 99th percentile (line)", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
