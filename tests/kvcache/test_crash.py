"""kill -9 while segments are written and deleted: afterwards nothing is wrong, orphaned, or acknowledged and lost."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from kvcache import TieredStore, verify_folder
from kvcache.files.folder import SegmentFolder
from tests.kvcache import crashing
from tests.kvcache.conftest import FINGERPRINT

CUTS = 200


@pytest.fixture(scope="module")
def children() -> ForkServerContext:
    """Children that start in milliseconds: forked from a process that has imported everything and has no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.kvcache.crashing"])
    return context


def run_until_cut(
    context: ForkServerContext, folder: Path, seed: int, step: str | None, countdown: int, after_s: float | None
) -> tuple[set[str], set[str], int | None]:
    """Keys that the child said are on disk, labels that it said are gone, and its exit code."""
    hears, tells = context.Pipe(duplex=False)
    child = context.Process(target=crashing.work, args=(folder, seed, step, countdown, tells))
    child.start()
    tells.close()
    if after_s is not None:
        time.sleep(after_s)
        child.kill()
    put: dict[str, str] = {}
    gone: set[str] = set()
    try:
        while True:
            what, key, label = hears.recv()
            if what == "put":
                put[key] = label
            else:
                gone.add(label)
                put.pop(key, None)
    except (EOFError, ConnectionResetError):
        pass
    child.join()
    return set(put), gone, child.exitcode


def check(folder: Path, put: set[str], gone: set[str], doubtful: set[str]) -> None:
    """``doubtful``: labels whose removal was under way when the cut came."""
    store = TieredStore(folder, codec="int8")
    try:
        report = verify_folder(folder)
        assert report.bad == []
        entries = {entry.key: entry for entry in store.catalogue.entries()}
        assert {path.stem for path in SegmentFolder(folder).files()} == set(entries)
        assert not list(folder.glob("*/.*.tmp"))
        labels = {label for entry in entries.values() for label in entry.labels}
        assert not labels & gone
        lost = put - set(entries)
        assert len(lost) <= len(doubtful), "what was acknowledged is there"
        for key in put & set(entries):
            store.load(key, FINGERPRINT)
    finally:
        store.close()


@pytest.mark.slow
def test_an_uncut_run_ends_well(children: ForkServerContext, tmp_path: Path) -> None:
    put, gone, code = run_until_cut(children, tmp_path, 1, None, 0, None)
    assert (code, len(put), len(gone)) == (0, 32, 8)
    check(tmp_path, put, gone, set())


@pytest.mark.slow
@pytest.mark.parametrize("step", crashing.STEPS)
@pytest.mark.parametrize("countdown", [1, 2, 7])
def test_killed_at_a_step(children: ForkServerContext, tmp_path: Path, step: str, countdown: int) -> None:
    put, gone, code = run_until_cut(children, tmp_path, 2, step, countdown, None)
    assert code == -signal.SIGKILL, "the step was reached"
    check(tmp_path, put, gone, {"removal"} if step in ("unlink", "forget") else set())


@pytest.mark.slow
def test_killed_at_random(children: ForkServerContext, tmp_path: Path) -> None:
    """Folders that are cut again and again, each time after another part of a run."""
    rng = random.Random(0)
    cut = seed = 0
    while cut < CUTS:
        folder = tmp_path / str(seed % 8)
        put, gone, code = run_until_cut(children, folder, seed, None, 0, rng.uniform(0.0, 0.08))
        cut += code == -signal.SIGKILL
        check(folder, put, gone, {"removal"})
        seed += 1
