"""How much of the device's memory keys and values may take."""

from __future__ import annotations

import torch

# The rest is for what passes compute with, and for gaps between blocks.
_SHARE = 0.9


def kv_budget(device: torch.device, wanted: int | None) -> int | None:
    """Return the bytes for the keys and values of requests and of the device tier together: ``wanted``, else on a GPU
    most of what is free once the model is there. None: no bound but the machine's memory, as on a CPU, where that is
    swapped and shared rather than used up."""
    if wanted is not None or device.type != "cuda":
        return wanted
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * _SHARE)
