from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import pytest
import torch

from benchmarks.suites.crowded import another_process
from engine.transformers.threads import (
    others_running,
    run_on_short_lived_thread,
    set_thread_count,
    times_as_quick,
    usable_threads,
    use_one_thread,
)


@pytest.fixture(autouse=True)
def _put_back() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_thread_keeps_its_number_and_later_ones_have_one() -> None:
    started, left = threading.Event(), threading.Event()

    def engine() -> tuple[int, int]:
        set_thread_count(2)
        started.set()
        left.wait()
        first = torch.get_num_threads()
        torch.randn(512, 512) @ torch.randn(512, 512)
        return first, torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(engine)
        started.wait()
        use_one_thread()
        left.set()
        assert found.result() == (2, 2)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == 1


def test_what_is_done_in_passing_has_its_threads_and_leaves_none() -> None:
    torch.set_num_threads(1)
    before = threading.active_count()
    assert run_on_short_lived_thread(torch.get_num_threads, 2) == 2
    assert threading.active_count() == before
    with pytest.raises(ZeroDivisionError):
        run_on_short_lived_thread(lambda: 1 // 0, 2)


def _groups(root: Path, lines: str, **files: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("lines", "files", "most"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "350000 100000"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000", "a/cpu.max": "350000 100000"}, 1),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        # In a container, where the group's path is the host's.
        ("0::/kubepods/pod1\n", {"cpu.max": "200000 100000"}, 2),
        (
            "4:cpu,cpuacct:/x\n0::/\n",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "299000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            2,
        ),
        ("4:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, 8),
        ("3:memory:/x\n", {"memory/x/cpu.cfs_quota_us": "100000"}, 8),
        ("", {}, 8),
    ],
)
def test_threads_are_at_most_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, files: dict[str, str], most: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    torch.set_num_threads(8)
    assert usable_threads(_groups(tmp_path, lines, **files)) == most


def test_threads_are_at_most_the_cores_of_the_affinity(tmp_path: Path) -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from engine.transformers import usable_threads; print(usable_threads())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


def test_what_several_threads_bring_is_measured() -> None:
    assert times_as_quick(2) > 0
    assert torch.get_num_threads() >= 1


def test_the_kernel_is_asked_how_many_threads_of_others_run(tmp_path: Path) -> None:
    states = {"1": "1 (python) R 0", "2": "2 (a) S) R 0", "3": "3 (python) S 0"}  # a name may hold anything
    for task, stat in states.items():
        folder = tmp_path / "proc/self/task" / task
        folder.mkdir(parents=True)
        (folder / "stat").write_text(stat)
    assert others_running(root=tmp_path) is None
    for counts, others in {"1/300": 0, "2/300": 0, "5/300": 3, "0/0": 0}.items():
        (tmp_path / "proc/loadavg").write_text(f"0.50 0.40 0.30 {counts} 4711\n")
        assert others_running(root=tmp_path) == others
        assert others_running(9, tmp_path) == max(0, int(counts[0]) - 1)  # an upper bound is enough
    (tmp_path / "proc/loadavg").write_text("what is this\n")
    assert others_running(root=tmp_path) is None


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="this kernel does not tell")
def test_a_process_that_computes_is_seen() -> None:
    with another_process():
        seen = [others_running() for _ in range(40) if time.sleep(0.01) is None]  # type: ignore[func-returns-value]
    assert median(count for count in seen if count is not None) >= usable_threads()
