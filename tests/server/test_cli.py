from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli import main
from tests.server.running import Running


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_memory_commands(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    url = ("--url", server.url)
    status, id, _ = call(capsys, "memory", "add", "The command line knows the walrus.", *url)
    assert status == 0
    status, out, _ = call(capsys, "memory", "search", "walrus", "--format", "json", *url)
    assert json.loads(out)[0]["memory"]["id"] == id.strip()
    status, out, _ = call(capsys, "memory", "ls", *url)
    assert "walrus" in out
    assert call(capsys, "memory", "rm", id.strip(), *url)[0] == 0
    status, _, err = call(capsys, "memory", "rm", id.strip(), *url)
    assert status == 1
    assert err.startswith("recallkv: 404")


def test_chat_once(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    server.services.chat._default_max_tokens = 8
    status, out, _ = call(capsys, "chat", "--once", "hello", "--url", server.url)
    assert status == 0
    assert "prompt tokens from KV" in out


def test_no_server_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "memory", "ls", "--url", "http://127.0.0.1:9")
    assert (status, out) == (1, "")
    assert "is 'recallkv serve' running?" in err
    assert "Traceback" not in err


def test_usage_errors_are_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "memory", "add")[0] == 2
    assert call(capsys, "nonsense")[0] == 2
    status, _, err = call(capsys, "serve", "--sever.port", "1")
    assert status == 1
    assert "server.port" in err


def test_print_config_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "serve", "demo", "--print-config", "--port", "9")
    assert status == 0
    assert "port: 9  # flag --server.port" in out
    assert call(capsys, "--version")[1].strip() == "0.1.0"


def test_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--data-dir", str(tmp_path))
    status, key, _ = call(capsys, "key", "create", "laptop", "--tenant", "anna", *where)
    assert status == 0
    assert key.startswith("rk_")
    _, out, _ = call(capsys, "key", "ls", *where)
    assert "laptop" in out
    assert key.strip() not in out
    assert call(capsys, "key", "create", "laptop", *where)[0] == 1
    assert call(capsys, "key", "revoke", "laptop", *where)[0] == 0
    assert call(capsys, "key", "revoke", "laptop", *where)[0] == 1


def test_cache_commands(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    server.add("The cache command sees this.")
    server.chat("cache command sees")
    server.services.store.flush()
    where = ("--data-dir", str(server.services.config.data_dir))
    status, out, _ = call(capsys, "cache", "ls", "--format", "json", *where)
    assert status == 0
    assert any(entry["labels"] for entry in json.loads(out))
    assert "segments," in call(capsys, "cache", "ls", *where)[1]
    status, out, _ = call(capsys, "cache", "verify", *where)
    assert status == 0
    assert "0 bad" in out


def test_verify_exits_with_1_on_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "segments" / "ab" / ("ab" * 32 + ".safetensors")
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"nothing of the kind")
    status, out, _ = call(capsys, "cache", "verify", "--data-dir", str(tmp_path))
    assert status == 1
    assert "1 bad" in out


def test_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "doctor", "--data-dir", str(tmp_path), "--format", "json")
    findings = {finding["name"]: finding for finding in json.loads(out)}
    assert status == 0
    assert {"versions", "device", "demo model", "embedder", "data folder", "disk read", "port"} == set(findings)
    assert "GB/s" in findings["disk read"]["detail"]


def test_help_is_quick_to_import() -> None:
    """Neither torch nor FastAPI is loaded to print a list of commands."""
    code = (
        "import sys\n"
        "from server.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'fastapi', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    assert "bench" in done.stdout
