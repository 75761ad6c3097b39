"""The staged run: a stage that fails, dies or takes too long ends no other, and what it had found stays."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.gpu import runner, summary
from benchmarks.gpu.job import Job
from benchmarks.gpu.plan import full, rehearsal
from benchmarks.gpu.record import Record
from benchmarks.gpu.stages import STAGES, Stage
from benchmarks.gpu.tables import _count, _judge
from benchmarks.lab.architectures import ARCHITECTURES


def result(out: Path, name: str) -> dict[str, Any]:
    (path,) = out.glob(f"*-{name}.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def good(job: Job) -> None:
    job.record.cell("one", lambda: {"left": job.left_s > 0})


def partly(job: Job) -> None:
    job.record.cell("first", lambda: 1)
    job.record.cell("second", lambda: 1 / 0)
    job.record.cell("third", lambda: 3)


def raising(job: Job) -> None:
    job.record.cell("first", lambda: 1)
    raise RuntimeError("out of order")


def dying(job: Job) -> None:
    job.record.cell("first", lambda: 1)
    os.kill(os.getpid(), signal.SIGKILL)


def endless(job: Job) -> None:
    job.record.cell("first", lambda: 1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def run_stages(
    monkeypatch: pytest.MonkeyPatch, out: Path, *stages: Stage, deadline_s: float = 60.0, only: tuple[str, ...] = ()
) -> bool:
    for module in (runner, summary):
        monkeypatch.setattr(module, "STAGES", stages)
    return runner.run_all("tiny", "cpu", out, deadline_s, only)


pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # other tests leave threads


def test_every_stage_runs_whatever_the_others_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner, "_GRACE_S", 0.2)
    passed = run_stages(
        monkeypatch,
        tmp_path,
        Stage("partly", 20, 1, partly),
        Stage("raising", 20, 1, raising),
        Stage("dying", 20, 1, dying),
        Stage("endless", 1, 1, endless),
        Stage("good", 20, 1, good),
    )
    assert not passed
    found = {name: result(tmp_path, name) for name in ("partly", "raising", "dying", "endless", "good")}
    assert {name: data["status"] for name, data in found.items()} == {
        "partly": "failed",
        "raising": "failed",
        "dying": "failed",
        "endless": "ended",
        "good": "passed",
    }
    assert found["partly"]["failed"] == {"second": "ZeroDivisionError: division by zero"}
    assert found["partly"]["cells"].keys() == {"first", "third"}
    assert found["raising"]["failed"] == {"stage": "RuntimeError: out of order"}
    assert found["dying"]["failed"] == {"stage": "ended by SIGKILL"}
    assert found["endless"]["failed"] == {"stage": "its time was over"}
    for name in ("raising", "dying", "endless"):
        assert found[name]["cells"]["first"]["found"] == 1, "what was found before stays"
    assert found["good"]["cells"]["one"]["found"] == {"left": True}
    table = summary.brief(tmp_path)
    assert "| 04-good | passed |" in table
    assert "- 02-dying, stage: ended by SIGKILL" in table


def test_a_stage_that_no_longer_fits_is_not_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "07-old.json").write_text("{}")
    short, long = Stage("short", 30, 1, good), Stage("long", 200, 100, good)
    monkeypatch.setattr(runner, "_LEAST_REHEARSED_S", 100.0)
    assert not run_stages(monkeypatch, tmp_path, long, deadline_s=20.0)
    assert result(tmp_path, "long")["status"] == "skipped"
    monkeypatch.setattr(runner, "_LEAST_REHEARSED_S", 1.0)
    monkeypatch.setattr(runner, "plan_of", lambda models, device: rehearsal("cpu"))
    for module in (runner, summary):
        monkeypatch.setattr(module, "STAGES", (long, short))
    assert not runner.run_all("full", "cpu", tmp_path, 20.0)
    assert result(tmp_path, "long")["status"] == "skipped"
    assert result(tmp_path, "short")["status"] == "passed"
    assert not (tmp_path / "07-old.json").exists(), "an earlier run's results are not taken for this one's"


def test_only_some_stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stages = Stage("one", 20, 1, good), Stage("other", 20, 1, raising)
    assert run_stages(monkeypatch, tmp_path, *stages, only=("one",))
    assert [path.name for path in tmp_path.glob("*.json")] == ["00-one.json"]
    assert not run_stages(monkeypatch, tmp_path, *stages, only=("other",))
    assert result(tmp_path, "one")["status"] == "passed", "a second command adds to the first one's results"


def test_the_stages_fit_in_nine_minutes() -> None:
    """Those that the goals hang on, at their full budgets, before what is only done again."""
    *once, again = STAGES
    assert again.name == "memos-again"
    assert sum(stage.least_s for stage in STAGES) <= 540
    assert [stage.name for stage in STAGES] == list(dict.fromkeys(stage.name for stage in STAGES))
    # Budgets are bounds: their sum may be above the deadline by what stages are expected to leave.
    assert sum(stage.budget_s for stage in once) <= 1.3 * 540


def test_a_rehearsal_is_the_same_run_with_small_numbers() -> None:
    real, small = full("cuda"), rehearsal("cpu")
    assert {real.small, real.middle, real.large, real.checked} <= set(ARCHITECTURES)
    assert small.table.modes == real.table.modes
    assert small.tiers.modes == real.tiers.modes
    assert len(small.table.cells) == len(real.table.cells) == 9
    assert len(small.decoding.contexts) == len(real.decoding.contexts)


def _row(**changes: Any) -> dict[str, Any]:
    outputs = {"bitwise": True, "is_blind": False, "kl": 0.0}
    row = {"context_tokens": 9, "query_tokens": 2, "mode": "host", "outputs_equal": True, "outputs": outputs}
    return {**row, **{k: v for k, v in changes.items() if k in row}, "outputs": {**outputs, **changes}}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (_row(), None),
        (_row(bitwise=None), None),
        (_row(outputs_equal=False), "the output is not"),
        (_row(is_blind=True), "equality says nothing"),
    ],
)
def test_stored_outputs_are_judged(row: dict[str, Any], reason: str | None, tmp_path: Path) -> None:
    record = Record(tmp_path / "r.json", "stage")
    _judge(Job(rehearsal("cpu"), record, tmp_path, 0.0), row)
    failed = record.data["failed"]
    assert (not failed) if reason is None else reason in failed["9+2 host"]


def test_missing_rows_are_told(tmp_path: Path) -> None:
    record = Record(tmp_path / "r.json", "stage")
    plan = rehearsal("cpu")
    _count(Job(plan, record, tmp_path, 0.0), plan.tiers, {"rows": [{}] * 11})
    assert record.data["failed"] == {"rows": "11 of 12 were measured"}


def test_a_record_is_whole_at_every_moment(tmp_path: Path) -> None:
    record = Record(tmp_path / "r.json", "stage")
    assert json.loads((tmp_path / "r.json").read_text())["status"] == "running"
    record.cell("a", lambda: {"x": 1})
    assert json.loads((tmp_path / "r.json").read_text())["cells"]["a"]["found"] == {"x": 1}
    assert record.end()
    assert json.loads((tmp_path / "r.json").read_text())["status"] == "passed"
    assert list(tmp_path.iterdir()) == [tmp_path / "r.json"]


def test_the_command_runs_a_stage_and_prints_the_table(tmp_path: Path) -> None:
    asked = ["gpu", "--out", str(tmp_path), "--device", "cpu", "--models", "tiny", "--only", "env"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    found = result(tmp_path, "env")
    assert found["status"] == "passed"
    assert found["cells"]["large_product_tflops"]["found"] > 0
    assert {one["layer"] for one in found["cells"]["products"]["found"]} == {"qkv", "o", "gate_up", "down"}
    assert "| 00-env | passed |" in (tmp_path / "table.md").read_text()
    assert CliRunner().invoke(app, [*asked[:-1], "nonsense"]).exit_code == 2
