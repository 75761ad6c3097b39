"""The demo model as a GGUF file of float32 weights, for llama.cpp: the same weights as everywhere else here, which are
its published 4-bit file taken apart once."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize

from engine.folders import cache_folder
from server.assets import DEMO_MODEL, AssetError, check_sha256, installed


class NoGguf(Exception):
    """There is no GGUF file of a model."""


def float32_gguf(model_folder: Path) -> Path:
    """The file that goes with the demo model's folder, made at first use (in about a quarter of a minute). Raises
    ``NoGguf`` for other models and where the model's package is not installed."""
    try:
        manifest = json.loads((model_folder / "recallkv.json").read_text())
    except (OSError, ValueError):
        manifest = {}
    if manifest.get("sha256") != DEMO_MODEL.sha256:
        raise NoGguf(f"there is a GGUF file of the demo model only, not of {model_folder.name}")
    target = cache_folder() / "models" / f"{model_folder.name}-f32.gguf"
    if target.is_file():
        return target
    source = installed(DEMO_MODEL)
    if source is None:
        raise NoGguf(f"{DEMO_MODEL.distribution} is not installed")
    try:
        check_sha256(source, DEMO_MODEL.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".gguf-") as folder:
            fresh = Path(folder) / target.name
            _dequantise(source, fresh)
            os.replace(fresh, target)
    except (AssetError, OSError) as error:
        raise NoGguf(f"{target.name} cannot be made: {error}") from error
    return target


def _dequantise(source: Path, target: Path) -> None:
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name == "general.architecture" or name.startswith("GGUF."):
            continue  # the writer's own
        value = int(LlamaFileType.ALL_F32) if name == "general.file_type" else field.contents()
        is_array = field.types[0] == GGUFValueType.ARRAY
        writer.add_key_value(name, value, field.types[0], sub_type=field.types[-1] if is_array else None)
    for tensor in reader.tensors:
        weights = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, weights, raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
