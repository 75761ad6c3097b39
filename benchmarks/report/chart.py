"""README's picture, as an SVG that follows the reader's light or dark theme. No library draws it, so its bytes are
the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

_OURS = {
    "direct": "read as text (full prefill)",
    "resident": "KV, resident",
    "host": "KV, from host memory",
    "disk": "KV, from a cold disk",
    "composed": "KV, in any order (composed at high)",
}
_PEERS = {
    "peer:vllm": "vLLM, prefix cache",
    "peer:llama.cpp": "llama.cpp, prompt cache",
    "peer:transformers": "transformers, DynamicCache",
    "peer:tardigrade-db": "TardigradeDB",
    "peer:kvboost": "KVBoost",
}
_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 880, 292, 208, 28, 62
_STYLE = """
  .ink { fill: #1f2328; } .soft { fill: #59636e; } .line { stroke: #d1d9e0; }
  .text { fill: #9aa5b1; } .kv { fill: #1f7a5c; } .peer { fill: #8d7fbf; }
  @media (prefers-color-scheme: dark) {
    .ink { fill: #e6edf3; } .soft { fill: #9198a1; } .line { stroke: #3d444d; }
    .text { fill: #6b7683; } .kv { fill: #3fb68b; } .peer { fill: #a597dd; }
  }
  text { font: 14px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; }
  .title { font-size: 17px; font-weight: 600; } .small { font-size: 12px; }
"""


@dataclass(frozen=True)
class _Bar:
    label: str
    seconds: float
    kind: str
    note: str


def _bar(mode: str, label: str, row: dict[str, Any], direct_s: float) -> _Bar:
    seconds = row["ttft_s"]["p50"]
    kind = "peer" if mode in _PEERS else "text" if mode == "direct" else "kv"
    notes = [] if mode in ("direct", *_PEERS) else [f"{direct_s / seconds:.0f}x"]
    if not row["outputs_equal"]:
        notes.append("other output")
    return _Bar(label, seconds, kind, f"{seconds:.2f} s" + "".join(f", {note}" for note in notes))


def _bars(rows: dict[str, dict[str, Any]], labels: dict[str, str]) -> list[_Bar]:
    direct_s = rows["direct"]["ttft_s"]["p50"]
    return [_bar(mode, label, rows[mode], direct_s) for mode, label in labels.items() if mode in rows]


def _text(x: float, y: float, words: str, style: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def _drawn(bars: list[_Bar], top: float, scale: float) -> list[str]:
    end = top + len(bars) * _ROW - 4
    lines = [f'<line class="line" x1="{_LEFT}" y1="{top:g}" x2="{_LEFT}" y2="{end:g}"/>']
    for i, bar in enumerate(bars):
        y = top + i * _ROW
        width = max(2.0, bar.seconds * scale)
        lines.append(_text(_LEFT - 10, y + 16, bar.label, "ink", "end"))
        lines.append(f'<rect class="{bar.kind}" x="{_LEFT}" y="{y + 3:g}" width="{width:.1f}" height="18" rx="3"/>')
        lines.append(_text(_LEFT + round(width, 1) + 8, y + 16, bar.note, "ink"))
    return lines


def first_token_svg(result: dict[str, Any]) -> str:
    """Draw the lab's longest context: bars of the seconds to the first token, ours above the peers'.

    ``result`` is a result of ``recallkv bench lab`` with peers. "Other output" marks a mode whose first token or logits
    differ from those of full prefill by the same software.
    """
    context = max(row["context_tokens"] for row in result["rows"])
    rows = {row["mode"]: row for row in result["rows"] if row["context_tokens"] == context}
    query = rows["direct"]["query_tokens"]
    ours, peers = _bars(rows, _OURS), _bars(rows, _PEERS)
    scale = (_WIDTH - _LEFT - _RIGHT) / max(bar.seconds for bar in ours + peers)
    second = _TOP + 24 + len(ours) * _ROW + 34
    height = second + len(peers) * _ROW + 60
    machine = result["machine"]
    where = f"{machine['cores']} CPU cores" if machine["device"] == "cpu" else machine["device"]
    body = [
        _text(20, 30, f"Seconds to the first token: {context:,} tokens of memory, {query} of question", "ink title"),
        _text(20, _TOP + 4, "RecallKV", "soft"),
        *_drawn(ours, _TOP + 12, scale),
        _text(20, second - 8, "Other software, the same tokens in its own cache, in the same order", "soft"),
        *_drawn(peers, second, scale),
        _text(20, height - 34, "Other output: not the output of full prefill by the same software.", "soft small"),
        _text(
            20,
            height - 16,
            f"Demo model (SmolLM2-135M, {machine['dtype']}) on {where}; medians of {result['rounds']} rounds in one "
            f"run; commit {machine['commit']}. On a GPU: not yet run.",
            "soft small",
        ),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" width="{_WIDTH}" '
        f'height="{height:g}" role="img" aria-label="Time to first token, RecallKV and other software">'
    )
    return "\n".join([head, f"<style>{_STYLE}</style>", *body, "</svg>"]) + "\n"


_GAINS = {
    "text": "retrieved, as text (full prefill)",
    "exact": "retrieved, KV exact",
    "high": "retrieved, KV in any order, high",
    "fast": "retrieved, KV in any order, fast",
    "naive": "retrieved, caches only concatenated",
    "random": "other memories, as text",
}
_WHISKERS = """  .whisker { stroke: #333d47; stroke-width: 1.2; fill: none; }
  @media (prefers-color-scheme: dark) { .whisker { stroke: #d1d9e0; } }
"""
_KINDS = {"text": "text", "random": "text", "naive": "peer"}


def answers_svg(result: dict[str, Any]) -> str:
    """Draw what memories bring to the right answer, in nats a token over no memory: a bar for each way that they come
    into the prompt, with its 95% interval, and the share of text's gain that it keeps.

    ``result`` is a result of ``recallkv bench answers``.
    """
    rows = {row["condition"]: row for row in result["rows"]}
    shown = [(name, rows[name]) for name in _GAINS if name in rows]
    scale = (_WIDTH - _LEFT - _RIGHT) / max(row["gain"]["high"] for _, row in shown)
    end = _TOP + len(shown) * _ROW - 4
    body = [
        _text(20, 30, "What memories bring to the right answer: nats a token over no memory", "ink title"),
        f'<line class="line" x1="{_LEFT}" y1="{_TOP}" x2="{_LEFT}" y2="{end}"/>',
    ]
    for i, (name, row) in enumerate(shown):
        body += _gain(name, row, _TOP + i * _ROW, scale)
    machine = result["machine"]
    where = f"{machine['cores']} CPU cores" if machine["device"] == "cpu" else machine["device"]
    model = "Demo model (SmolLM2-135M)" if result["model"] == "demo" else result["model"]
    told = (
        f"{model}, {machine['dtype']}, on {where}; likelihood of the gold answers to {result['questions']} questions, "
        f"{result['top_k']} memories each; lines: 95% interval."
    )
    height = end + 42
    body.append(_text(20, height - 16, told, "soft small"))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" role="img" aria-label="Gain of the right answer\'s likelihood by memories">'
    )
    return "\n".join([head, f"<style>{_STYLE}{_WHISKERS}</style>", *body, "</svg>"]) + "\n"


def _gain(name: str, row: dict[str, Any], y: float, scale: float) -> list[str]:
    """Draw a bar from nothing to the gain, its interval, and both in words."""
    low, value, high = (_LEFT + row["gain"][part] * scale for part in ("low", "value", "high"))
    begin, width = min(value, _LEFT), max(2.0, abs(value - _LEFT))
    note = f"{row['gain']['value']:.2f}"
    if name not in ("text", "random"):
        note += f", keeps {row['kept']['value']:.0%}"
    kind = _KINDS.get(name, "kv")
    return [
        _text(_LEFT - 10, y + 16, _GAINS[name], "ink", "end"),
        f'<rect class="{kind}" x="{begin:.1f}" y="{y + 3:g}" width="{width:.1f}" height="18" rx="3"/>',
        f'<path class="whisker" d="M{low:.1f} {y + 12:g}H{high:.1f}M{low:.1f} {y + 8:g}v8M{high:.1f} {y + 8:g}v8"/>',
        _text(max(high, _LEFT) + 8, y + 16, note, "ink"),
    ]
