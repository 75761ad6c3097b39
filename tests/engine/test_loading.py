from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.errors import ModelNotLoaded
from engine.transformers import load_model, prepare
from engine.transformers.loading import choose_device, choose_dtype
from tests.tiny import tiny_network, tiny_tokenizer

CPU = torch.device("cpu")


def save(folder: Path) -> Path:
    tiny_network().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_saved_model_loads_with_the_fingerprint_of_its_files(tmp_path: Path) -> None:
    a, b = load_model(save(tmp_path / "a"), dtype="float32"), load_model(save(tmp_path / "b"), dtype="float32")
    assert a.fingerprint.digest == b.fingerprint.digest
    assert a.context == 2048


@pytest.mark.parametrize("damage", ["missing", "empty", "config", "weights"])
def test_what_cannot_be_loaded_is_named(tmp_path: Path, damage: str) -> None:
    folder = save(tmp_path / "model")
    if damage == "missing":
        folder = tmp_path / "nothing-here"
    elif damage == "empty":
        folder = tmp_path
    elif damage == "config":
        (folder / "config.json").write_text("{")
    else:
        (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ModelNotLoaded, match="cannot be loaded"):
        load_model(folder)


def test_devices_and_dtypes() -> None:
    assert choose_device("cpu") == CPU
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    expected = torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
    assert choose_dtype("auto", CPU) == expected
    for wrong in ("abacus", "cuda:99", ""):
        with pytest.raises(ModelNotLoaded):
            choose_device(wrong)
    for wrong in ("int8", "float99", "Tensor"):
        with pytest.raises(ModelNotLoaded):
            choose_dtype(wrong, CPU)


def test_a_bfloat16_model_serves_from_segments_too() -> None:
    network = tiny_network().to(torch.bfloat16)
    assert prepare(network, tiny_tokenizer()).fingerprint.layout.dtype == "bfloat16"
