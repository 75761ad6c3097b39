"""A data folder that version 0.1 has made (commit b4ebbd4) goes on being served, by either engine.

``folder_of_0_1.tar.gz`` holds ``model/`` (a tiny one, in float32), ``data/`` (memories of two cubes, one of which was
changed and one deleted, messages, and the segments that chats have left) and ``expected.json``: the replies of version
0.1 after a restart on a copy of ``data/``.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process import ServerProcess
from tests.server import running

_ARCHIVE = Path(__file__).with_name("folder_of_0_1.tar.gz")
_VLLM = ("--vllm.max-model-len", "1024", "--cache.device-gb", "1")


@dataclass(frozen=True)
class Older:
    """A server of this version on the older folder, and what version 0.1 said."""

    client: httpx.Client
    expected: dict[str, Any]

    def ask(self, question: str, **memory: Any) -> dict[str, Any]:
        """Chat as the folder's maker did, with the numbers of the answer's tokens."""
        reply = self.client.post(
            "/v1/chat/completions",
            json={
                "model": "tiny",
                "messages": [{"role": "user", "content": question}],
                "max_tokens": 12,
                "temperature": 0,
                "ignore_eos": True,
                "logit_bias": {"256": -100, "257": -100},
                "logprobs": True,
                "memory": {"mode": "kv", "remember": False, **memory},
            },
        )
        assert reply.status_code == 200, reply.text
        said: dict[str, Any] = reply.json()
        return said


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Older]:
    folder = tmp_path_factory.mktemp("older")
    with tarfile.open(_ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    flags = ["--engine.served-name", "tiny", "--memory.embedder", "hash", "--cache.max-kl", "100"]
    flags += ["--engine", running.ENGINE, *(_VLLM if running.ENGINE == "vllm" else ())]
    server = ServerProcess(folder / "data", *flags, model=str(folder / "model"))
    try:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            yield Older(client, json.loads((folder / "expected.json").read_text()))
    finally:
        server.stop()


_KINDS = ("exact", "text", "fast")


def _logprobs(reply: dict[str, Any]) -> list[float]:
    return [token["logprob"] for token in reply["choices"][0]["logprobs"]["content"]]


def _origins(receipt: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(memory["id"], memory["source"], memory["fidelity"]) for memory in receipt["memories"]]


def test_answers_come_from_the_segments_that_are_there(older: Older) -> None:
    """Before anything else is asked: what was stored comes from the disk, and gives the numbers that it gave."""
    before = older.expected["exact"]
    # By name: that version's search injected memories that have nothing to do with the question.
    named = {kind: [memory["id"] for memory in older.expected[kind]["memory"]["memories"]] for kind in _KINDS}
    reply = older.ask(older.expected["question"], fidelity="exact", ids=named["exact"])
    assert _origins(reply["memory"]) == _origins(before["memory"])
    assert {origin[1] for origin in _origins(reply["memory"])} == {"disk"}
    if running.ENGINE == "transformers":  # vLLM stores no turns, and finds none
        assert reply["usage"] == before["usage"]
    assert _logprobs(reply) == pytest.approx([logprob for _, logprob in before["logprobs"]], abs=1e-3)
    for kind, asked in (("text", {"mode": "text"}), ("fast", {"fidelity": "fast", "top_k": 1})):
        reply = older.ask(older.expected["other" if kind == "fast" else "question"], ids=named[kind], **asked)
        assert [memory["id"] for memory in reply["memory"]["memories"]] == named[kind]
        assert _logprobs(reply) == pytest.approx([lp for _, lp in older.expected[kind]["logprobs"]], abs=1e-3)


def test_memories_are_as_they_were(older: Older) -> None:
    for path, key in (("/v1/memories", "memories"), ("/v1/cubes", "cubes")):
        found, before = older.client.get(path).json()["data"], older.expected[key]["data"]
        for now, then in zip(found, before, strict=True):
            then.pop("uses", None)  # they go on being counted
            assert {name: now[name] for name in then} == then
    edited = next(item["id"] for item in older.expected["memories"]["data"] if item["version"] == 2)
    history = older.client.get(f"/v1/memories/{edited}/history").json()
    assert history == older.expected["history"]
    hits = older.client.post("/v1/memories/search", json={"query": older.expected["question"]}).json()["data"]
    before = older.expected["search"]["data"]  # in the same order; scores fall with a memory's age
    assert [hit["memory"]["id"] for hit in hits] == [hit["memory"]["id"] for hit in before]


def test_no_segment_of_it_is_refused(older: Older) -> None:
    assert older.client.get("/v1/cache").json()["data"]
    assert "recallkv_segments_quarantined_total 0" in older.client.get("/metrics").text
