"""MemOS's published figures, to stand beside ours.

Source: MemTensor/MemOS, ``docs/en/open_source/modules/memories/kv_cache_memory.md``, evaluation by prompt injection and
by KV injection. The page names neither hardware nor script. In all of the long and eight of the nine medium rows
building plus the cached first token takes less time than the direct first token, so its baseline carries a cost that
one engine measured against itself does not have.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.lab.suites import MEMOS_CONTEXTS, MEMOS_QUERIES


@dataclass(frozen=True)
class Published:
    """One cell. Seconds; ``speedup_percent`` is (direct - cached) / direct."""

    build_s: float
    cached_s: float
    direct_s: float
    speedup_percent: float


_ROWS = {
    ("long", "long"): ("0.92 0.50 2.37 79.1", "0.71 0.31 1.09 71.4", "1.26 0.48 2.04 76.4"),
    ("long", "medium"): ("0.93 0.19 2.16 91.1", "0.71 0.15 0.98 84.3", "1.26 0.23 1.82 87.2"),
    ("long", "short"): ("0.93 0.12 2.04 94.2", "0.71 0.11 0.96 88.8", "1.27 0.15 1.79 91.4"),
    ("medium", "long"): ("0.41 0.43 1.22 64.6", "0.31 0.24 0.56 56.9", "0.58 0.39 1.05 62.7"),
    ("medium", "medium"): ("0.41 0.16 1.08 85.1", "0.31 0.12 0.47 75.1", "0.58 0.18 0.89 79.2"),
    ("medium", "short"): ("0.43 0.10 0.95 89.7", "0.31 0.08 0.44 81.2", "0.71 0.23 0.82 71.6"),
    ("short", "long"): ("0.12 0.39 0.51 23.0", "0.09 0.20 0.24 18.6", "0.16 0.33 0.43 23.8"),
    ("short", "medium"): ("0.12 0.14 0.32 55.6", "0.09 0.09 0.15 39.6", "0.16 0.15 0.27 43.2"),
    ("short", "short"): ("0.12 0.08 0.29 71.3", "0.09 0.07 0.14 53.5", "0.16 0.10 0.25 60.5"),
}
_MODELS = ("qwen3-8b", "qwen3-32b", "qwen2.5-72b")

MEMOS: dict[tuple[str, int, int], Published] = {
    (model, MEMOS_CONTEXTS[context], MEMOS_QUERIES[query]): Published(*map(float, row.split()))
    for (context, query), rows in _ROWS.items()
    for model, row in zip(_MODELS, rows, strict=True)
}
