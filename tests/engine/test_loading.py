from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.dtype import choose_dtype
from engine.errors import ModelNotLoaded
from engine.transformers import load_model, prepare
from engine.transformers.loading import choose_device
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
    expected = torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
    assert choose_dtype("auto", CPU) == expected
    for wrong in ("abacus", "cuda:99", ""):
        with pytest.raises(ModelNotLoaded):
            choose_device(wrong)
    for wrong in ("int8", "float99", "Tensor"):
        with pytest.raises(ModelNotLoaded):
            choose_dtype(wrong, CPU)


@pytest.mark.parametrize("has_units", [True, False])
def test_bfloat16_on_a_gpu_that_has_units_for_it(monkeypatch: pytest.MonkeyPatch, has_units: bool) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return has_units or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    expected = torch.bfloat16 if has_units else torch.float16
    assert choose_dtype("auto", torch.device("cuda", 0)) == expected


def test_a_gpu_has_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on it say one, and would else be taken to lie somewhere else."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert choose_device("auto") == torch.device("cuda", 1)


def test_weights_go_straight_to_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's memory never holds a model that only the device has room for."""
    places: list[torch.device] = []

    def prepared(network: Any, *_: Any, **__: Any) -> None:
        places.extend({parameter.device for parameter in network.parameters()})

    monkeypatch.setattr("engine.transformers.loading.prepare", prepared)
    monkeypatch.setattr(torch.nn.Module, "to", lambda *_, **__: pytest.fail("moved after it was loaded"))
    load_model(save(tmp_path), device="meta", dtype="float32")
    load_model(tmp_path, device="cpu", dtype="float32")
    assert places == [torch.device("meta"), CPU]


def test_a_bfloat16_model_serves_from_segments_too() -> None:
    network = tiny_network().to(torch.bfloat16)
    assert prepare(network, tiny_tokenizer()).fingerprint.layout.dtype == "bfloat16"
