"""Choose the number format of a model: the same for every engine, so that they share segments."""

from __future__ import annotations

import torch

from engine.errors import ModelNotLoaded


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Choose a dtype by name. ``auto`` is bfloat16 where matrix units for it exist (GPUs since Ampere, AMX), because
    emulated bfloat16 is slower; else float16 on a GPU, float32 on a CPU. Raises ``ModelNotLoaded``."""
    if wanted != "auto":
        dtype = getattr(torch, wanted, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ModelNotLoaded(f"'{wanted}' is not a floating-point dtype")
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
