from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from kvcache import FingerprintMismatch, Layout, SegmentCorrupt, read_segment, write_segment
from kvcache.files.format import read_header
from tests.kvcache.conftest import FINGERPRINT, make_segment


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_round_trip_is_bit_exact(tmp_path: Path, dtype: str) -> None:
    fingerprint = replace(FINGERPRINT, layout=Layout(3, 2, 8, dtype))
    segment = make_segment(range(17), labels=["b", "a"], fingerprint=fingerprint)
    path = tmp_path / "x.safetensors"
    write_segment(path, segment)
    back = read_segment(path, fingerprint)
    assert torch.equal(back.keys, segment.keys)
    assert torch.equal(back.values, segment.values)
    for name in ("key", "parent", "fingerprint", "start", "token_ids", "labels"):
        assert getattr(back, name) == getattr(segment, name)


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    segment = make_segment()
    write_segment(tmp_path / "x.safetensors", segment)
    with safe_open(tmp_path / "x.safetensors", "pt") as opened:
        assert set(opened.keys()) == {"keys", "values", "token_ids"}
        assert opened.metadata()["key"] == segment.key
        assert torch.equal(opened.get_tensor("keys"), segment.keys)


def test_files_are_private_and_no_temporary_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "ab" / "x.safetensors"
    write_segment(path, make_segment())
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(OSError, match="exists"):
        write_segment(blocked / "x.safetensors", make_segment())
    assert os.listdir(tmp_path) == ["file"]


def test_another_model_is_refused(tmp_path: Path) -> None:
    write_segment(tmp_path / "x", make_segment())
    with pytest.raises(FingerprintMismatch, match="another model"):
        read_segment(tmp_path / "x", replace(FINGERPRINT, weights="other"))


@pytest.fixture(scope="module")
def good_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "x.safetensors"
    write_segment(path, make_segment(range(5), labels=["memory@1"]))
    return path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(data=st.data())
def test_any_flipped_bit_is_found(good_file: bytes, tmp_path: Path, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, len(good_file) * 8 - 1))
    damaged = bytearray(good_file)
    damaged[bit // 8] ^= 1 << (bit % 8)
    (tmp_path / "x").write_bytes(damaged)
    try:
        segment = read_segment(tmp_path / "x", FINGERPRINT)
    except (SegmentCorrupt, FingerprintMismatch):
        return
    # Padding between JSON tokens carries no meaning: then all that was read must still be right.
    good = make_segment(range(5), labels=["memory@1"])
    assert segment.key == good.key
    assert segment.labels == good.labels
    assert torch.equal(segment.keys, good.keys)
    assert torch.equal(segment.values, good.values)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(data=st.data())
def test_any_truncation_is_found(good_file: bytes, tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "x").write_bytes(good_file[: data.draw(st.integers(0, len(good_file) - 1))])
    with pytest.raises(SegmentCorrupt):
        read_segment(tmp_path / "x", FINGERPRINT)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(noise=st.binary(max_size=400))
def test_noise_is_refused(tmp_path: Path, noise: bytes) -> None:
    (tmp_path / "x").write_bytes(noise)
    with pytest.raises(SegmentCorrupt):
        read_segment(tmp_path / "x", FINGERPRINT)


def _with_header(good: bytes, change) -> bytes:  # type: ignore[no-untyped-def]
    (size,) = struct.unpack("<Q", good[:8])
    header = json.loads(good[8 : 8 + size])
    change(header)
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + good[8 + size :]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("huge shape", lambda h: h["keys"].update(shape=[2, 2, 1 << 40, 4])),
        ("negative shape", lambda h: h["keys"].update(shape=[2, -2, -5, 4])),
        ("offset outside", lambda h: h["values"].update(data_offsets=[0, 1 << 50])),
        ("overlap", lambda h: h["values"].update(data_offsets=h["keys"]["data_offsets"])),
        ("unknown dtype", lambda h: h["keys"].update(dtype="F64")),
        ("extra tensor", lambda h: h.update(more=h["keys"])),
        ("missing tensor", lambda h: h.pop("values")),
        ("no metadata", lambda h: h.pop("__metadata__")),
        ("key is a path", lambda h: h["__metadata__"].update(key="../../etc/passwd")),
        ("start is no number", lambda h: h["__metadata__"].update(start="x")),
        ("other format", lambda h: h["__metadata__"].update(format="recallkv.segment/9")),
        ("labels are no list", lambda h: h["__metadata__"].update(labels="{")),
        ("start moved", lambda h: h["__metadata__"].update(start="7")),
        ("other parent", lambda h: h["__metadata__"].update(parent="0" * 64)),
    ],
)
def test_absurd_headers_are_refused(good_file: bytes, tmp_path: Path, name: str, change) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "x").write_bytes(_with_header(good_file, change))
    with pytest.raises(SegmentCorrupt):
        read_segment(tmp_path / "x", FINGERPRINT)


def test_an_absurd_header_size_allocates_nothing(tmp_path: Path, good_file: bytes) -> None:
    (tmp_path / "x").write_bytes(struct.pack("<Q", 1 << 60) + good_file[8:])
    with pytest.raises(SegmentCorrupt, match="a header of"):
        read_header(tmp_path / "x")
