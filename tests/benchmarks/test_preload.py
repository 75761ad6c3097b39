"""The replay of scenes, on small conversations of our own."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.data.scenes import Scenes, load_scenes
from benchmarks.data.text import sentence
from benchmarks.suites import preload, preload_model
from benchmarks.suites.soak import Size, arrivals, live
from engine.prompt import PromptRenderer
from engine.transformers import LoadedModel
from memory import HashEmbedder, MemoryStore
from scheduler import ForesightConfig, PreloadConfig


def locomo(folder: Path, conversations: int = 2, sessions: int = 5, turns: int = 6) -> Path:
    """Seeded conversations in LoCoMo's format."""
    rng = random.Random(7)
    data = []
    for number in range(conversations):
        conversation: dict[str, object] = {}
        for session in range(1, sessions + 1):
            conversation[f"session_{session}_date_time"] = f"1:{number:02d} pm on {session} May, 2023"
            conversation[f"session_{session}"] = [
                {"dia_id": f"D{session}:{i}", "speaker": "Ana", "text": sentence(rng)} for i in range(turns)
            ]
        data.append({"conversation": conversation, "qa": []})
    path = folder / "locomo.json"
    path.write_text(json.dumps(data))
    return path


def scenes_of(folder: Path, model: LoadedModel) -> tuple[Scenes, MemoryStore]:
    store = MemoryStore(folder / "memories.sqlite", HashEmbedder())
    render = PromptRenderer(model.tokenizer).render
    return load_scenes(store, locomo(folder), render, memory_tokens=120, top_k=3), store


def test_scenes(model: LoadedModel, tmp_path: Path) -> None:
    scenes, store = scenes_of(tmp_path, model)
    assert len(scenes.cubes) == 2
    assert len(scenes.turns) == 2 * 2 * 6  # two of five sessions are asked
    assert [turn.at for turn in scenes.turns] == sorted(turn.at for turn in scenes.turns)
    assert all(turn.found for turn in scenes.turns)
    housed = [{piece.label for page in cube.pages for piece in page.members} for cube in scenes.cubes]
    assert housed == [{memory.label for memory in cube.memories} for cube in scenes.cubes]
    again = load_scenes(
        store, tmp_path / "locomo.json", PromptRenderer(model.tokenizer).render, memory_tokens=120, top_k=3
    )
    assert [cube.memories for cube in again.cubes] == [cube.memories for cube in scenes.cubes]
    store.close()


def test_policies_on_the_index(model: LoadedModel, tmp_path: Path) -> None:
    scenes, store = scenes_of(tmp_path, model)
    config = ForesightConfig(preload=PreloadConfig(min_probability=0.3))
    budget = preload.total_bytes(scenes) // 3
    rows = {
        policy: asyncio.run(preload.replay_index(scenes, store, policy, budget, config))[0]
        for policy in ("none", "lru", "lfu", "predictor", "oracle", "resident")
    }
    assert rows["none"].hit_rate == 0.0
    assert rows["resident"].hit_rate == 1.0
    best = rows["oracle"].hit_rate
    assert all(row.hit_rate <= best for name, row in rows.items() if name != "resident")
    assert rows["predictor"].hit_rate > 0
    assert 0 <= (rows["predictor"].wasted_share or 0) <= 1
    assert rows["oracle"].wasted_share == 0.0
    store.close()


def test_policies_with_a_model(model: LoadedModel, tmp_path: Path) -> None:
    scenes, store = scenes_of(tmp_path, model)
    scenes = Scenes(scenes.cubes, scenes.turns[:6])

    async def run() -> list[preload.Row]:
        folder = tmp_path / "pages"
        total = await preload_model.build_pages(model, folder, scenes, lambda text: None)
        assert total == preload_model.bytes_of(folder) > 0
        lanes: list[tuple[preload.PolicyName, int]] = [
            (policy, total // 3) for policy in ("none", "lru", "lfu", "predictor", "oracle", "resident")
        ]
        return await preload_model.replay_model(
            model,
            folder,
            scenes,
            store,
            lanes,
            top_k=3,
            fidelity="fast",
            config=None,
            report=lambda text: None,
        )

    rows = {row.policy: row for row in asyncio.run(run())}
    for row in rows.values():
        assert row.ttft_p50_s is not None
        assert row.ttft_p99_s is not None
        assert 0 < row.ttft_p50_s <= row.ttft_p99_s
        assert (row.of_lru_p99 is None) == (row.policy == "lru")
    assert rows["none"].hit_rate == 0.0
    assert all(0 <= row.hit_rate <= 1 for row in rows.values())
    store.close()


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["preload", "--trace", str(locomo(tmp_path)), "--json", str(out), "--memory-tokens", "64"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    written = json.loads(out.read_text())
    assert {row["policy"] for row in written["rows"]} >= {"none", "lru", "lfu", "predictor", "oracle"}
    assert {"budget_bytes", "hit_rate", "ttft_p50_s", "ttft_p99_s", "wasted_share"} <= written["rows"][0].keys()
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    two = [*arguments, "--policies", "lru,adversary"]
    assert CliRunner().invoke(app, two).exit_code == 0
    assert [row["policy"] for row in json.loads(out.read_text())["rows"]] == ["lru", "adversary"]
    assert CliRunner().invoke(app, [*arguments, "--policies", "lru,luck"]).exit_code == 2
    trace = tmp_path / "trace.jsonl"
    requests = [
        {"timestamp": i * 1000, "input_length": 600, "output_length": 5, "hash_ids": [0, i % 3 + 1]} for i in range(9)
    ]
    trace.write_text("\n".join(json.dumps(request) for request in requests))
    result = CliRunner().invoke(app, ["preload", "--trace", str(trace), "--blocks", "2,4", "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert len(json.loads(out.read_text())["rows"]) == 10


SMALL = Size(cubes=12, turns=600, memories=12)


def test_a_day(tmp_path: Path) -> None:
    found = asyncio.run(live(tmp_path, SMALL, lambda text: None))
    assert found["turns"] == found["scenes"] == 600
    assert found["scene_failures"] == 0
    assert found["jobs"].get("failed", 0) == found["jobs"].get("waiting", 0) == found["jobs"].get("running", 0) == 0
    assert found["jobs"]["completed"] == 60
    moved = found["preloader"]
    ended = sum(moved[name] for name in ("moved", "cancelled", "expired", "refused", "failures"))
    assert (moved["offered"], moved["waiting"]) == (ended, 0)
    assert found["most_queued"] <= 1024
    assert found["hit_rate"] > 0.3
    assert len(arrivals(SMALL)) == 600


def test_a_day_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom benchmarks.suites.soak import Size, live\n"
        "asyncio.run(live(Path(sys.argv[1]), Size(cubes=12, turns=600, memories=12), lambda t: print(t, flush=True)))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as cut:
        assert cut.stdout is not None
        assert cut.stdout.readline().startswith("turn 250")
        time.sleep(0.3)
        cut.send_signal(signal.SIGKILL)
    found = asyncio.run(live(tmp_path, SMALL, lambda text: None))
    assert found["resumed_at"] in (250, 500)
    assert found["scenes"] == 600 - found["resumed_at"]
    assert found["jobs"]["completed"] == 60  # each once, those in the turns that were done twice too
    assert set(found["jobs"]) == {"completed"} or not any(
        found["jobs"].get(status) for status in ("waiting", "running", "failed")
    )
    assert found["report"]["weights"]["bias"] != pytest.approx(-3.0)  # what was learned was not lost
