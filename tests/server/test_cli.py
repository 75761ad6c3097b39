from __future__ import annotations

import importlib
import io
import json
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from kvcache import TieredStore
from kvcache.files.folder import SegmentFolder
from memory import HashEmbedder, MemoryStore
from server.cli import NAMED_ERRORS, main
from server.lock import DataDirLock
from tests.kvcache.conftest import make_segment
from tests.server import running
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
    server.services.chat.defaults = replace(server.services.chat.defaults, max_tokens=8)
    status, out, _ = call(capsys, "chat", "--once", "hello", "--url", server.url)
    assert status == 0
    assert "prompt tokens from KV" in out


def test_chat_goes_on_until_the_input_ends(
    server: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn that is refused is said so and forgotten; the next one is answered."""
    server.services.chat.defaults = replace(server.services.chat.defaults, max_tokens=4)
    monkeypatch.setattr("sys.stdin", io.StringIO("far too long " * 5000 + "\nhello\n"))
    status, out, _ = call(capsys, "chat", "--url", server.url)
    assert status == 0
    assert "400: " in out
    assert out.count("prompt tokens from KV") == 1


def test_texts_are_printed_as_they_stand(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    memory = server.add("A zebra [/b] [red] :dog: \x1b]0;title\x07 end")
    for command in (("ls",), ("search", "zebra")):
        status, out, _ = call(capsys, "memory", *command, "--url", server.url)
        assert status == 0
        assert "\x1b]0" not in out
        assert all(part in out for part in ("[/b]", "[red]", ":dog:"))
    call(capsys, "memory", "rm", memory["id"], "--url", server.url)


@pytest.mark.parametrize("url", ["http://[bad", "ftp://x", "nonsense", "http://a\x00b"])
def test_urls_that_are_none_are_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "memory", "ls", "--url", url)
    assert (status, out) == (1, "")
    assert err.startswith("recallkv: ")
    assert err.count("\n") == 1


def test_text_that_is_no_unicode_is_one_line(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "memory", "add", "\udcff", "--url", server.url)
    assert (status, err) == (1, "recallkv: the text is not valid UTF-8\n")


def test_no_server_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "memory", "ls", "--url", "http://127.0.0.1:9")
    assert (status, out) == (1, "")
    assert "is 'recallkv serve' running?" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("module", "name"), NAMED_ERRORS)
def test_the_table_of_named_errors_holds(module: str, name: str) -> None:
    found = getattr(importlib.import_module(module), name)
    assert issubclass(found, Exception)
    assert found.__module__ == module


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
    assert call(capsys, "--version")[1].strip() == "0.2.0"


def test_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--data-dir", str(tmp_path / "new"))
    status, key, _ = call(capsys, "key", "create", "laptop", "--tenant", "anna", *where)
    assert status == 0
    assert key.startswith("rk_")
    _, out, _ = call(capsys, "key", "ls", *where)
    assert "laptop" in out
    assert key.strip() not in out
    assert call(capsys, "key", "create", "laptop", *where)[0] == 1
    assert call(capsys, "key", "revoke", "laptop", *where)[0] == 0
    assert call(capsys, "key", "revoke", "laptop", *where)[0] == 1


@pytest.mark.transformers
def test_cache_commands(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    server.add("The cache command sees this.")
    server.chat("cache command sees")
    server.flush()
    where = ("--data-dir", str(server.services.config.data_dir))
    status, out, _ = call(capsys, "cache", "ls", "--format", "json", *where)
    assert status == 0
    assert any(entry["labels"] for entry in json.loads(out))
    assert "segments," in call(capsys, "cache", "ls", *where)[1]
    status, out, _ = call(capsys, "cache", "verify", *where)
    assert status == 0
    assert "0 bad" in out
    key = server.services.catalogue.entries()[0].key
    assert json.loads(call(capsys, "cache", "show", key[:10], *where)[1])["key"] == key


def test_pin_and_gc_in_a_folder_that_nobody_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--data-dir", str(tmp_path))
    store = TieredStore(tmp_path / "segments")
    first = make_segment()
    second = make_segment((4, 5), after=first)
    store.put(first)
    store.put(second)
    store.close()
    assert call(capsys, "cache", "pin", first.key[:8], *where)[0] == 0
    assert json.loads(call(capsys, "cache", "show", first.key, *where)[1])["pinned"] is True
    assert call(capsys, "cache", "pin", first.key, "--off", *where)[0] == 0
    assert json.loads(call(capsys, "cache", "show", first.key, *where)[1])["pinned"] is False
    assert call(capsys, "cache", "show", "nothing", *where)[0] == 2
    lock = DataDirLock(tmp_path)
    for changing in (("pin", first.key), ("gc",)):
        status, _, err = call(capsys, "cache", *changing, *where)
        assert status == 1
        assert "in use" in err
    lock.release()
    SegmentFolder(tmp_path / "segments").path_of(first.key).unlink()
    stray = SegmentFolder(tmp_path / "segments").path_of("ab" * 32)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"x")
    status, out, _ = call(capsys, "cache", "gc", *where)
    assert (status, "removed 1 unreachable" in out, "0 left" in out) == (0, True, True)
    assert not stray.exists()


def test_verify_exits_with_1_on_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "segments" / "ab" / ("ab" * 32 + ".safetensors")
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"nothing of the kind")
    status, out, _ = call(capsys, "cache", "verify", "--data-dir", str(tmp_path))
    assert status == 1
    assert "1 bad" in out


def doctor(capsys: pytest.CaptureFixture[str], folder: Path, port: int) -> tuple[int, dict[str, dict[str, str]]]:
    where = ("--data-dir", str(folder), "--port", str(port))
    status, out, _ = call(capsys, "doctor", "--format", "json", *where)
    return status, {finding["name"]: finding for finding in json.loads(out)}


def test_doctor(server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, findings = doctor(capsys, tmp_path / "new" / "folder", int(server.url.rpartition(":")[2]))
    assert status == 0
    names = "versions,device,attention,threads,demo model,embedder,languages,data folder,disk read,port"
    assert set(names.split(",")) == set(findings)
    assert "GB/s" in findings["disk read"]["detail"]
    assert findings["port"]["detail"].startswith("a server is running")
    if running.ENGINE == "transformers":
        assert "has stepped down 0 times" in findings["threads"]["detail"]


def test_doctor_proposes_the_multilingual_embedder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "memories.sqlite"
    store = MemoryStore(path, HashEmbedder())
    english = store.cubes.create("tenant", "english").id
    store.add_many("tenant", english, [f"Gate {i} squeaks in the wind." for i in range(20)])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert doctor(capsys, tmp_path, port)[1]["languages"]["state"] == "ok"
    russian = store.cubes.create("tenant", "russian").id
    store.add_many("tenant", russian, [f"Дверь номер {i} скрипит на ветру." for i in range(20)])
    found = doctor(capsys, tmp_path, port)[1]["languages"]
    assert found["state"] == "note"
    assert russian in found["detail"]
    assert english not in found["detail"]
    assert "--embedder multilingual" in found["detail"]
    store.close()
    path.write_bytes(b"no database " * 100)
    assert doctor(capsys, tmp_path, port)[1]["languages"]["state"] == "problem"


def test_doctor_exits_with_1_on_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as other:
        answering = threading.Thread(target=lambda: other.accept()[0].close())
        answering.start()
        status, findings = doctor(capsys, tmp_path / "file" / "x", other.getsockname()[1])
        answering.join()
    assert status == 1
    assert [name for name, finding in findings.items() if finding["state"] == "problem"] == ["data folder", "port"]


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


def test_plan_and_top(server: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    url = ("--url", server.url)
    call(capsys, "memory", "add", "The planner knows the narwhal.", *url)
    call(capsys, "chat", "--once", "Who knows the narwhal?", *url)
    status, out, _ = call(capsys, "top", "--once", *url)
    assert status == 0
    assert all(title in out for title in ("tiers", "predictor", "work", "events"))
    assert "narwhal" not in out
    status, _, err = call(capsys, "plan", "default", *url)
    assert status == 1  # the tests' engine does not measure the machine
    assert "409" in err
    monkeypatch.setattr(server.services.engine, "prefill_s", lambda n, behind: n * 1e-3)
    status, out, _ = call(capsys, "plan", "default", "--format", "json", *url)
    assert status == 0
    found = json.loads(out)
    assert found["data"][0]["tokens"] > 0
    status, out, _ = call(capsys, "plan", "default", *url)
    assert "memories are worth" in out or "Not worth it" in out
    assert call(capsys, "plan", "nowhere", *url)[0] == 1
