"""One data folder served with one model, then another, then the first again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.transformers import LoadedModel, prepare
from tests.server.running import Running, running
from tests.tiny import tiny_network, tiny_tokenizer

pytestmark = pytest.mark.transformers
TEXT = "Rex the dog sleeps in the basket beside the stove."
OTHER = "The invoice of the office is due on Friday."


@pytest.fixture(scope="module")
def half() -> LoadedModel:
    """The same model in bfloat16."""
    return prepare(tiny_network().to(torch.bfloat16), tiny_tokenizer())


def sources(server: Running, text: str) -> set[str]:
    reply = server.chat(text, memory={"mode": "kv", "fidelity": "exact"})
    assert reply.status_code == 200, reply.text
    return {memory["source"] for memory in reply.json()["memory"]["memories"]}


def talk(server: Running) -> set[str]:
    """Several turns, so that what is coming is foreseen; where the first one's memories came from."""
    first = sources(server, "dog Rex basket")
    for _ in range(4):
        sources(server, "dog Rex basket")
    server.flush()
    return first


def test_switching_the_dtype_keeps_what_each_has(model: LoadedModel, half: LoadedModel, tmp_path: Path) -> None:
    with running(model, tmp_path) as server:
        ids = [server.add(text)["id"] for text in (TEXT, OTHER)]
        assert talk(server) == {"computed"}
        before = {entry.key for entry in server.services.catalogue.entries()}
    with running(half, tmp_path) as server:
        assert talk(server) == {"computed"}  # none of the other's is used
        server.services.foresight.tick() if server.services.foresight else None
        told = server.client.get("/v1/cache").json()
        assert [model["served"] for model in told["models"]] == [True, False]
        assert before < {entry.key for entry in server.services.catalogue.entries()}
        assert told["quarantined"] == told["quarantine"]["segments"] == 0
        assert "recallkv_model_disk_bytes{" in server.client.get("/metrics").text
    with running(model, tmp_path) as server:
        assert talk(server) == {"disk"}
        assert server.services.catalogue.stats().quarantined == 0
    with running(half, tmp_path) as server:
        assert server.client.delete(f"/v1/memories/{ids[0]}?forget=true").status_code == 200
        label = {label for entry in server.services.catalogue.entries() for label in entry.labels}
        assert not {each for each in label if each.startswith(ids[0])}
        assert {path.stem for path in (tmp_path / "segments").glob("??/*.safetensors")} == {
            entry.key for entry in server.services.catalogue.entries()
        }
    with running(model, tmp_path) as server:
        assert sources(server, "invoice office Friday") <= {"computed", "disk"}
        assert not (tmp_path / "segments" / "quarantine").exists()
