"""Small tables from the host to the device that computes, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def upload(
    numbers: Sequence[float] | Sequence[int], device: torch.device, dtype: torch.dtype = torch.long
) -> torch.Tensor:
    """Give ``numbers`` as a tensor [numbers] on ``device``. To a GPU they go through pinned memory, behind what it was
    given before: PyTorch keeps such memory from being used again until the copy is done."""
    if device.type != "cuda":
        return torch.tensor(numbers, dtype=dtype, device=device)
    return torch.tensor(numbers, dtype=dtype, pin_memory=True).to(device, non_blocking=True)
