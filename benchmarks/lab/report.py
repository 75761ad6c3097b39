"""A result as Markdown, and several as one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from benchmarks.lab import findings
from benchmarks.lab.charts import Line, line_chart
from benchmarks.lab.published import MEMOS

Result = dict[str, Any]
Row = dict[str, Any]
_MODES = {
    "direct": "direct prefill",
    "resident": "KV resident",
    "host": "KV, host memory",
    "disk": "KV, disk (cold)",
    "composed": "composed",
    "composed-disk": "composed, pages from disk (cold)",
}
_HEAD = ("context + query", "mode", "first token", "speedup", "floor", "of floor", "same output")


def mode_name(row: Row) -> str:
    kind = row["mode"]
    name = f"{kind.removeprefix('peer:')}, its cache" if kind.startswith("peer:") else _MODES[kind]
    details = [row["fidelity"], row["codec"], f"{row['requests']} at once" if row["requests"] > 1 else None]
    told = ", ".join(detail for detail in details if detail)
    return f"{name} ({told})" if told else name


def table(rows: Iterable[Row]) -> list[list[str]]:
    """Cells of the table of times, a line a row."""
    return [
        [
            f"{row['context_tokens']:,} + {row['query_tokens']:,}",
            mode_name(row),
            _with_interval(row["ttft_s"]),
            "-" if row["mode"] == "direct" else f"{row['speedup_percent']:.1f}%",
            seconds(row["floor_s"]),
            f"{row['ratio_to_floor']:.2f}",
            same_output(row),
        ]
        for row in rows
    ]


def same_output(row: Row) -> str:
    """Say whether the output is that of direct prefill; where it was compared, how far it is from it in nats, and how
    far direct prefill in other chunks is."""
    outputs = row.get("outputs")
    if outputs is None:
        return "yes" if row["outputs_equal"] else "**no**"
    told = f"KL {outputs['kl']:.1e}, control {outputs['control_kl']:.1e}"
    if outputs["bitwise"] is None or outputs["is_blind"]:
        return told
    return f"{'bit by bit' if row['outputs_equal'] else '**no**'}; {told}"


def build_table(builds: Iterable[Row]) -> list[list[str]]:
    return [
        [
            f"{row['context_tokens']:,}",
            _with_interval(row["build_s"]),
            _with_interval(row["prefill_s"]),
            f"{row['ratio_to_prefill']:.2f}",
            "-" if row["store_s"] is None else seconds(row["store_s"]),
            f"{row['nbytes'] / 1e6:,.0f} MB",
            seconds(row["floor_s"]),
            f"{row['ratio_to_floor']:.2f}",
        ]
        for row in builds
    ]


_BUILD_HEAD = ("context", "build", "plain prefill", "build / prefill", "then to disk", "bytes", "floor", "of floor")


def memos_table(rows: Sequence[Row], builds: Sequence[Row], model: str) -> list[list[str]]:
    """MemOS's published cells beside ours, where both are."""
    built = {row["context_tokens"]: row["build_s"]["p50"] for row in builds if row["model"] == model}
    lines = []
    for cell in findings.cells(rows):
        theirs = MEMOS.get((model, *cell))
        direct, resident = (findings.find(rows, cell, mode) for mode in ("direct", "resident"))
        if theirs is None or direct is None or resident is None:
            continue
        lines.append(
            [
                f"{cell[0]:,} + {cell[1]:,}",
                f"{theirs.build_s:.2f}, {theirs.cached_s:.2f}, {theirs.direct_s:.2f} s",
                f"{theirs.speedup_percent:.1f}%",
                f"{built[cell[0]]:.3f}, {resident['ttft_s']['p50']:.3f}, {direct['ttft_s']['p50']:.3f} s",
                f"{resident['speedup_percent']:.1f}%",
            ]
        )
    return lines


def memos_lines(result: Result, model: str) -> list[str]:
    """The same as a table in Markdown; empty where nothing of it was measured."""
    rows, builds = ([row for row in result[kind] if row["model"] == model] for kind in ("rows", "builds"))
    lines = memos_table(rows, builds, model)
    return _grid(_MEMOS_HEAD, lines) if lines else []


_MEMOS_HEAD = ("context + query", "MemOS: build, cached, direct", "speedup", "here: build, resident, direct", "speedup")


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 10 else f"{value:.3f} s" if value >= 0.1 else f"{value * 1e3:.1f} ms"


def _with_interval(value: dict[str, float]) -> str:
    return f"{seconds(value['p50'])} ({seconds(value['low'])} to {seconds(value['high'])})"


def machine_line(result: Result) -> str:
    machine, ceilings = result["machine"], result["ceilings"]
    device = machine["device"] if machine["device"] != "cpu" else f"{machine['cores']} cores of an {machine['cpu']}"
    host, disk, small = (ceilings.get(name) for name in ("host_bytes_s", "disk_bytes_s", "small_flops"))
    measured = (
        f"{ceilings['flops'] / 1e12:.3g} TFLOP/s in a large matrix product, "
        f"{ceilings['device_bytes_s'] / 1e9:.3g} GB/s of memory"
        + ("" if host is None else f", {host / 1e9:.3g} GB/s from pinned host memory")
        + ("" if disk is None else f", {disk / 1e9:.3g} GB/s from the drive")
        + ("" if small is None else f", {small / 1e12:.3g} TFLOP/s in 8-bit floats")
    )
    return (
        f"{device}; torch {machine['torch']}, transformers {machine['transformers']}, {machine['dtype']}, commit "
        f"{machine['commit']}. Measured ceilings: {measured}. Medians of {result['rounds']} rounds, the modes taking "
        "turns."
    )


def _grid(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(line)} |" for line in lines)]


def markdown(result: Result) -> str:
    """One result."""
    parts = [f"## Suite `{result['suite']}`", "", machine_line(result), ""]
    for model, about in result["models"].items():
        rows = [row for row in result["rows"] if row["model"] == model]
        builds = [row for row in result["builds"] if row["model"] == model]
        parts += [f"### {model}", "", _about(about), "", findings.sentence(model, findings.single(rows, model)), ""]
        parts += [*_grid(_HEAD, table(rows)), ""]
        if builds:
            parts += [*_grid(_BUILD_HEAD, build_table(builds)), ""]
        if beside := memos_lines(result, model):
            parts += [*beside, ""]
    for title, ones in _not_measured(result):
        parts += [f"{title}:", "", *(f"- {s['model']}, {s['what']}: {s['reason']}" for s in ones), ""]
    return "\n".join(parts)


def _not_measured(result: Result) -> list[tuple[str, list[dict[str, str]]]]:
    found = [("Not run", result["skipped"]), ("Failed", result.get("failed", []))]
    return [(title, ones) for title, ones in found if ones]


def _about(about: dict[str, Any]) -> str:
    weights = "random weights" if about["weights"] == "random" else "its own weights"
    kind = {
        "fp8": ", linear layers in 8-bit floats",
        "shared": f", {about.get('distinct_layers')} layers' weights used in turn by {about.get('layers')}",
    }.get(about["weights_kind"], "")
    return (
        f"{about['parameters'] / 1e9:.3g} billion parameters, {weights} in {about['dtype']}{kind}; "
        f"{about['bytes_per_token'] / 1024:.1f} KiB of keys and values a token."
    )


# -- the page --------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5c6b7a; --line: #d9e0e7; --back: #fff; --band: #f5f7f9;
  --c0: #1f7a5c; --c1: #c9622b; --c2: #3b6fb5; --c3: #8a4fa3;
  --c4: #b08900; --c5: #4ba3c3; --c6: #b5446e; --c7: #6b7785; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4eaf0; --soft: #98a6b5; --line: #35404c; --back: #14191f;
  --band: #1b222a; --c0: #4cc59a; --c1: #f0935f; --c2: #7fb0f0; --c3: #c592dc;
  --c4: #e0bd4a; --c5: #7fd0ec; --c6: #ec86ac; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 1180px;
  margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .4rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; } p { margin: .3rem 0; } .soft { color: var(--soft); font-size: 13px; }
.finding { font-size: 1.1rem; border-left: 4px solid var(--c0); padding: .2rem .8rem; margin: .8rem 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .7rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .22rem .7rem; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; font-size: 13px; } td:nth-child(2), th:nth-child(2) { text-align: left; }
tbody.band { background: var(--band); } .no { color: var(--c1); font-weight: 700; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1rem; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
svg text.title { font-size: 13px; font-weight: 600; fill: var(--ink); } .grid { stroke: var(--line); }
.line { fill: none; stroke-width: 2; } .dashed { stroke-dasharray: 4 4; }
""" + "".join(
    f".line.c{i}{{stroke:var(--c{i})}} .dot.c{i}{{fill:var(--c{i})}} svg text.label.c{i}{{fill:var(--c{i})}}\n"
    for i in range(8)
)


def page(results: Sequence[Result]) -> str:
    """One HTML page for all results."""
    body = "".join(_section(result) for result in results)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>RecallKV lab</title><style>{_STYLE}</style></head><body><h1>RecallKV lab</h1>"
        "<p>How fast the first token comes with a context's keys and values at hand, and without; what building them "
        "costs; and whether the output stays the same. The <em>floor</em> is what this machine's measured ceilings "
        "allow for the operations and bytes that the work cannot do without.</p>"
        f"{body}</body></html>\n"
    )


def _section(result: Result) -> str:
    parts = [f"<h2>Suite {escape(result['suite'])}</h2><p class=soft>{escape(machine_line(result))}</p>"]
    parts += [
        f"<p class=finding>{escape(findings.sentence(model, findings.single(result['rows'], model)))}</p>"
        for model in result["models"]
    ]
    charts = [chart for chart in _charts(result) if chart]
    parts.append(f'<div class="charts">{"".join(charts)}</div>')
    for model, about in result["models"].items():
        rows = [row for row in result["rows"] if row["model"] == model]
        builds = [row for row in result["builds"] if row["model"] == model]
        parts.append(f"<h3>{escape(model)}</h3><p class=soft>{escape(_about(about))}</p>")
        parts.append(_html_table(_HEAD, table(rows)))
        if builds:
            parts.append(_html_table(_BUILD_HEAD, build_table(builds)))
        if lines := memos_table(rows, builds, model):
            parts.append("<p>MemOS's published cells beside ours; its page names no hardware and no script.</p>")
            parts.append(_html_table(_MEMOS_HEAD, lines))
    for title, ones in _not_measured(result):
        told = "".join(f"<li>{escape(s['model'])}, {escape(s['what'])}: {escape(s['reason'])}</li>" for s in ones)
        parts.append(f"<h3>{title}</h3><ul class=soft>{told}</ul>")
    return "".join(parts)


def _html_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Lines that begin alike are one band."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    bands: list[tuple[str, list[str]]] = []
    for line in lines:
        cells = "".join(
            f'<td class="no">{escape(c.replace("**", ""))}</td>' if c.startswith("**no**") else f"<td>{escape(c)}</td>"
            for c in line
        )
        if not bands or bands[-1][0] != line[0]:
            bands.append((line[0], []))
        bands[-1][1].append(f"<tr>{cells}</tr>")
    bodies = "".join(
        f"<tbody{' class=band' if number % 2 else ''}>{''.join(band)}</tbody>" for number, (_, band) in enumerate(bands)
    )
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead>{bodies}</table></div>'


def _charts(result: Result) -> list[str]:
    charts = []
    for model in result["models"]:
        rows = findings.single(result["rows"], model)
        builds = [row for row in result["builds"] if row["model"] == model]
        charts += [_times(model, rows), _speedups(model, rows), _builds(model, builds), _uses(model, rows)]
    return [*charts, _sizes(result), *(_at_once(result, model) for model in result["models"])]


def _times(model: str, rows: Sequence[Row]) -> str:
    """First token by context, at the smallest query."""
    cells = [cell for cell in findings.cells(rows) if cell[1] == min(c[1] for c in findings.cells(rows))]
    names = list(dict.fromkeys(mode_name(row) for row in rows if row["codec"] is None))
    lines = []
    for name in names:
        found = [r for r in rows if mode_name(r) == name and (r["context_tokens"], r["query_tokens"]) in cells]
        lines.append(Line(name.partition(" (")[0], sorted((r["context_tokens"], r["ttft_s"]["p50"]) for r in found)))
    if all(len(line.points) < 2 for line in lines):
        return ""
    return line_chart(
        f"{model}: seconds to first token", "tokens of context", "seconds", lines[:8], log_x=True, log_y=True
    )


def _speedups(model: str, rows: Sequence[Row]) -> str:
    lines = []
    for query in sorted({q for _, q in findings.cells(rows)}):
        found = [r for r in rows if r["query_tokens"] == query and r["mode"] == "resident"]
        lines.append(Line(f"query {query}", sorted((r["context_tokens"], r["speedup_percent"]) for r in found)))
    if all(len(line.points) < 2 for line in lines):
        return ""
    return line_chart(
        f"{model}: time saved by resident KV", "tokens of context", "percent of direct", lines, log_x=True
    )


def _builds(model: str, builds: Sequence[Row]) -> str:
    if len(builds) < 2:
        return ""
    lines = [
        Line("build", sorted((r["context_tokens"], r["build_s"]["p50"]) for r in builds)),
        Line("plain prefill", sorted((r["context_tokens"], r["prefill_s"]["p50"]) for r in builds)),
        Line("floor", sorted((r["context_tokens"], r["floor_s"]) for r in builds), dashed=True),
    ]
    return line_chart(f"{model}: building", "tokens of context", "seconds", lines, log_x=True, log_y=True)


def _uses(model: str, rows: Sequence[Row]) -> str:
    """Uses needed before a build of its own has paid, at the smallest query."""
    query = min((q for _, q in findings.cells(rows)), default=0)
    lines = []
    for mode in ("resident", "host", "disk", "composed"):
        points = [
            (c, uses)
            for c, q in findings.cells(rows)
            if q == query and (uses := findings.uses_needed(rows, (c, q), mode)) is not None
        ]
        if len(points) > 1:
            lines.append(Line(_MODES[mode].partition(" (")[0], sorted(points)))
    return line_chart(f"{model}: uses until a build has paid", "tokens of context", "uses", lines, log_x=True)


def _sizes(result: Result) -> str:
    """Build time of the longest context that all models have, by size of the model, with the floor."""
    shared = [{r["context_tokens"] for r in result["builds"] if r["model"] == model} for model in result["models"]]
    common = set.intersection(*shared) if len(shared) > 1 else set()
    if not common:
        return ""
    longest = max(common)
    rows = [row for row in result["builds"] if row["context_tokens"] == longest]
    size = {model: about["parameters"] / 1e9 for model, about in result["models"].items()}
    lines = [
        Line("build", sorted((size[r["model"]], r["build_s"]["p50"]) for r in rows)),
        Line("floor", sorted((size[r["model"]], r["floor_s"]) for r in rows), dashed=True),
    ]
    title = f"Building {longest:,} tokens by size of the model"
    return line_chart(title, "billion parameters", "seconds", lines, log_x=True, log_y=True)


def _at_once(result: Result, model: str) -> str:
    rows = [row for row in result["rows"] if row["model"] == model]
    if len({row["requests"] for row in rows}) < 2:
        return ""
    lines = []
    for mode in dict.fromkeys(row["mode"] for row in rows):
        points = sorted((row["requests"], row["ttft_s"]["p50"]) for row in rows if row["mode"] == mode)
        lines.append(Line(_MODES.get(mode, mode), points))
    return line_chart(
        f"{model}: requests at once", "requests", "median seconds to first token", lines, log_x=True, log_y=True
    )
