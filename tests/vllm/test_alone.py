"""The connector without a RecallKV server: plain ``vllm serve`` with one more flag."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.process import free_port
from tests.vllm.asking import tokens
from tests.vllm.shared import tiny_checkpoint


@contextmanager
def vllm_serve(folder: Path, log: Path) -> Iterator[httpx.Client]:
    port = free_port()
    transfer = {
        "kv_connector": "RecallKVConnector",
        "kv_connector_module_path": "engine.vllm.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"folder": str(folder), "host_gb": 0.2, "segment_tokens": 64},
    }
    # What ``vllm serve`` runs; the command itself asks for the version of a package that is named otherwise for CPUs.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_checkpoint())]
    command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--dtype", "float32"]
    # By default it asks for most of the memory there is, which other tests hold a part of.
    command += ["--gpu-memory-utilization", "0.1", "--kv-cache-memory-bytes", "268435456"]
    command += ["--served-model-name", "tiny", "--kv-transfer-config", json.dumps(transfer)]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            deadline = time.monotonic() + 240
            while time.monotonic() < deadline:
                assert process.poll() is None, log.read_text()[-3000:]
                try:
                    if client.get("/health").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.5)
            yield client
    finally:
        process.terminate()
        process.wait(60)


def complete(client: httpx.Client, prompt: list[int], salt: str | None = None) -> str:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    reply = client.post("/v1/completions", json=body | ({"cache_salt": salt} if salt else {}))
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["choices"][0]["text"]
    return text


def metric(client: httpx.Client, start: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))


def test_prompts_survive_a_restart_of_plain_vllm(tmp_path: Path) -> None:
    prompt = tokens(5, 300, 0, 250)
    folder, log = tmp_path / "segments", tmp_path / "log"
    with vllm_serve(folder, log) as client:
        first = complete(client, prompt)
        deadline = time.monotonic() + 30
        while metric(client, "vllm:recallkv_saved_tokens_total") < 256 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert metric(client, "vllm:recallkv_saved_tokens_total") == 256  # four runs of 64
    with vllm_serve(folder, log) as client:
        assert complete(client, prompt) == first
        assert metric(client, 'vllm:recallkv_loaded_tokens_total{engine="0",model_name="tiny",tier="disk"}') == 256
        assert metric(client, "vllm:external_prefix_cache_hits_total") == 256
        complete(client, prompt, "another tenant")
        assert metric(client, "vllm:recallkv_loaded_tokens_total") == 256
