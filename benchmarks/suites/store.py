"""The segment store: reading against the drive's own speed, and finding among many.

*Reading*: segments of several sizes from disk to where attention reads them, page cache dropped, against plain
sequential reads of the same files by the same process, one after the other in each round. *Finding*: 10,000 segments;
time to open the store, to find a chain, to find a page's part, and to plan a request.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from benchmarks.suites.ttft import drop_page_cache, read_raw
from benchmarks.support.machine import manifest
from engine.base import Piece, Prompt
from engine.transformers import SequenceKV
from engine.transformers.composing import PlacedPart, place
from kvcache import (
    Certificate,
    CodecName,
    Fingerprint,
    Layout,
    ModelView,
    Rotation,
    Segment,
    TieredStore,
    chain_key,
    root_key,
    standalone_root,
)
from kvcache.files.folder import SegmentFolder
from scheduler.order import best_order

_SMOLLM2 = Layout(layers=30, kv_heads=3, head_dim=64, dtype="float32")
_BUFFER = 8 << 20


def _fingerprint(layout: Layout) -> Fingerprint:
    return Fingerprint("bench", "bench", "bench", "bench", "full-causal", layout)


@dataclass(frozen=True)
class ReadRow:
    """Medians over the rounds. ``injected_gb_s``: bytes of the files over the seconds until keys and values are where
    attention reads them; ``raw_gb_s``: the files read into a buffer that is there already."""

    kind: str
    codec: str
    segments: int
    tokens_each: int
    file_mb: float
    raw_gb_s: float
    injected_gb_s: float
    ratio: float


def measure_reads(folder: Path, rounds: int, report: Callable[[str], None]) -> list[ReadRow]:
    """Chained segments (attended to where they lie) and pages (moved into place)."""
    cases: list[tuple[str, CodecName, int, int]] = [
        ("chained", "none", 1, 4096),
        ("chained", "none", 8, 512),
        ("standalone", "none", 8, 512),
        ("standalone", "int8", 8, 512),
    ]
    rows = []
    for number, case in enumerate(cases):
        report(" ".join(map(str, case)))
        rows.append(_read_row(folder / str(number), *case, rounds))
    return rows


def _read_row(folder: Path, kind: str, codec: CodecName, n: int, tokens: int, rounds: int) -> ReadRow:
    fingerprint = _fingerprint(_SMOLLM2)
    store = TieredStore(folder, codec=codec, device_bytes=1 << 34)
    segments = _segments(fingerprint, kind, n, tokens)
    for segment in segments:
        store.put(segment)
    store.flush()
    nbytes = sum(path.stat().st_size for path in SegmentFolder(folder).files())
    keys = [segment.key for segment in segments]
    del segments
    raw, injected = [], []
    buffer = bytearray(_BUFFER)
    for _ in range(rounds + 1):
        drop_page_cache(folder)
        raw.append(_raw_read(folder, buffer))
        store.demote("disk")
        drop_page_cache(folder)
        injected.append(_inject(store, fingerprint, keys))
    store.close()
    ratios = [a / b for a, b in zip(raw[1:], injected[1:], strict=True)]
    return ReadRow(
        kind=kind,
        codec=codec,
        segments=n,
        tokens_each=tokens,
        file_mb=round(nbytes / 1e6, 1),
        raw_gb_s=round(nbytes / statistics.median(raw[1:]) / 1e9, 3),
        injected_gb_s=round(nbytes / statistics.median(injected[1:]) / 1e9, 3),
        ratio=round(statistics.median(ratios), 4),
    )


def _segments(fingerprint: Fingerprint, kind: str, n: int, tokens: int) -> list[Segment]:
    made: list[Segment] = []
    shape = fingerprint.layout.shape(tokens)
    for i in range(n):
        ids = [i % 50_000] * tokens
        keys, values = torch.randn(shape), torch.randn(shape)
        if kind == "chained":
            parent = made[-1].key if made else root_key(fingerprint)
            made.append(Segment.chained(parent, fingerprint, i * tokens, ids, keys, values))
        else:
            made.append(Segment.standalone(root_key(fingerprint), fingerprint, 16, [(ids, None)], keys, values))
    return made


def _raw_read(folder: Path, buffer: bytearray) -> float:
    return sum(read_raw(path, buffer) for path in SegmentFolder(folder).files())


def _inject(store: TieredStore, fingerprint: Fingerprint, keys: Sequence[str]) -> float:
    layout = fingerprint.layout
    rotation = Rotation(1e4 ** -(torch.arange(0, layout.head_dim, 2, dtype=torch.float64) / layout.head_dim)[None])
    kv = SequenceKV(layout, torch.device("cpu"), 4096)
    begin = time.perf_counter()
    segments = [loaded.segment for loaded in store.load_many(keys, fingerprint) if loaded is not None]
    assert len(segments) == len(keys), "all of them are stored"
    if segments[0].root is None:
        for segment in segments:
            kv.inject(segment, min_span=256)
    else:
        ends = list(accumulate(segment.n_tokens for segment in segments))
        parts = [PlacedPart(s, s.parts[0], end - s.n_tokens) for s, end in zip(segments, ends, strict=True)]
        place(kv, parts, ends[-1], rotation)
    return time.perf_counter() - begin


@dataclass(frozen=True)
class FindResult:
    """Milliseconds, medians and maxima, with ``segments`` stored; ``open_s`` in seconds."""

    segments: int
    open_s: float
    bytes_read_at_open: int
    match_ms: float
    find_part_ms: float
    plan_ms: float
    lookup_max_ms: float


def measure_finding(folder: Path, n_segments: int, rounds: int) -> FindResult:
    """Half chains of ten segments, half pages of four parts; small tensors, as the catalogue does not see them."""
    layout = Layout(layers=1, kv_heads=1, head_dim=8, dtype="float32")
    fingerprint = _fingerprint(layout)
    store = TieredStore(folder, fsync=False)
    chains = [_chain(store, fingerprint, i) for i in range(n_segments // 20)]
    parts = [_page(store, fingerprint, i) for i in range(n_segments // 2)]
    store.flush()
    store.close()
    before = _bytes_read()
    begin = time.perf_counter()
    store = TieredStore(folder, fsync=False)
    open_s = time.perf_counter() - begin
    read = _bytes_read() - before
    root = root_key(fingerprint)
    matching = [_ms(store.catalogue.match, root, chains[i % len(chains)]) for i in range(rounds)]
    finding = [_ms(store.catalogue.find_part, parts[i % len(parts)]) for i in range(rounds)]
    prompt, stored = _prompt(chains[0]), ModelView(store.catalogue, fingerprint)
    planning = [_ms(best_order, stored, prompt, 0, "") for _ in range(rounds)]
    n = len(store.catalogue.entries())
    store.close()
    return FindResult(
        segments=n,
        open_s=round(open_s, 3),
        bytes_read_at_open=read,
        match_ms=round(statistics.median(matching), 4),
        find_part_ms=round(statistics.median(finding), 4),
        plan_ms=round(statistics.median(planning), 4),
        lookup_max_ms=round(max(*matching, *finding, *planning), 4),
    )


def _prompt(chain: Sequence[int]) -> Prompt:
    """A prompt of twelve memories, nine of which are a stored chain in another order."""
    memories = [tuple(chain[at : at + 32]) for at in range(32, 320, 32)] + [(7, i, 7) for i in range(3)]
    pieces = [Piece("memory", tokens, f"m{i}") for i, tokens in enumerate(reversed(memories))]
    return Prompt((Piece("header", tuple(chain[:32])), *pieces, Piece("turns", (1,))))


def _chain(store: TieredStore, fingerprint: Fingerprint, seed: int) -> list[int]:
    parent = root_key(fingerprint)
    tokens: list[int] = []
    for i in range(10):
        ids = [seed, i, *range(30)]
        data = torch.full(fingerprint.layout.shape(len(ids)), float(seed))
        segment = Segment.chained(
            parent, fingerprint, len(tokens), ids, data, data.clone(), frozenset({f"c{seed}.{i}"})
        )
        _put(store, segment)
        parent, tokens = segment.key, [*tokens, *ids]
    return tokens


def _page(store: TieredStore, fingerprint: Fingerprint, seed: int) -> str:
    header = root_key(fingerprint)
    parts = [([seed, i, *range(8)], f"p{seed}.{i}") for i in range(4)]
    data = torch.zeros(fingerprint.layout.shape(40))
    certificate = Certificate({"high": 0.0}, {"high": 1.0})
    page = Segment.standalone(header, fingerprint, 16, parts, data, data.clone())
    _put(store, page.certified(certificate))
    return chain_key(standalone_root(header), parts[2][0])


def _put(store: TieredStore, segment: Segment) -> None:
    """Keeps the queue short: a dropped write would be a segment less."""
    store.put(segment)
    if len(store.catalogue.entries()) % 200 == 0:
        store.flush()


def _ms(work: Callable[..., Any], *arguments: Any) -> float:
    begin = time.perf_counter()
    work(*arguments)
    return (time.perf_counter() - begin) * 1e3


def _bytes_read() -> int:
    """Bytes that this process has read by system calls (0 where the system does not say)."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


def result(reads: Sequence[ReadRow], finding: FindResult) -> dict[str, Any]:
    """The JSON."""
    machine = manifest(torch.device("cpu"), "float32")
    return {"machine": machine, "reads": [asdict(row) for row in reads], "finding": asdict(finding)}
