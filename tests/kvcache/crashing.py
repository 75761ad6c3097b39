"""What a process does to a segment folder until it is killed. Runs in a child; imports little."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import kvcache.files.writer
import kvcache.store
from kvcache import TieredStore
from kvcache.index import Index
from tests.kvcache.conftest import make_segment
from tests.kvcache.test_codecs import make_page

STEPS = ("save", "fsync", "rename", "sync_folder", "row", "row_done", "unlink", "forget")


def work(folder: Path, seed: int, cut_at: str | None, countdown: int, told: Connection) -> None:
    """Put, delete and evict segments; tell of each ``("put", key)`` that is on disk and each ``("gone", label)``.

    With ``cut_at`` the process kills itself when it comes to that step for the ``countdown``-th time.
    """
    if cut_at is not None:
        _cut(cut_at, countdown)
    rng = random.Random(seed)
    store = TieredStore(folder, disk_bytes=1 << 28, codec="int8")
    for round_ in range(40):
        label = f"m{seed}.{round_}@1"
        if round_ % 4 == 3:
            segment = make_page(31 + rng.randrange(40), lead=(round_, seed % 1000), label=label)
        else:
            tokens = [seed % 100_000, round_, *(rng.randrange(1000) for _ in range(rng.randrange(1, 60)))]
            segment = make_segment(tokens, labels=[label])
        if store.put(segment):
            store.flush()
            told.send(("put", segment.key, label))
        if round_ % 5 == 4:
            store.catalogue.remove_label(label)
            told.send(("gone", segment.key, label))
    store.close()


def _cut(step: str, countdown: int) -> None:
    left = [countdown]

    def before(function: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] <= 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if left[0] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    if step == "save":
        kvcache.files.writer._save = before(kvcache.files.writer._save, after=True)
    elif step == "fsync":
        os.fsync = before(os.fsync)
    elif step == "rename":
        Path.rename = before(Path.rename)  # type: ignore[method-assign]
    elif step == "sync_folder":
        kvcache.files.writer.sync_folder = before(kvcache.files.writer.sync_folder)
    elif step == "row":
        Index.stored = before(Index.stored)  # type: ignore[method-assign]
    elif step == "row_done":
        Index.stored = before(Index.stored, after=True)  # type: ignore[method-assign]
    elif step == "unlink":
        Path.unlink = before(Path.unlink, after=True)  # type: ignore[method-assign]
    else:
        Index.forget = before(Index.forget)  # type: ignore[method-assign]
