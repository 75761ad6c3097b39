"""vLLM's paged cache as GPUs have it, without vLLM."""

from __future__ import annotations

import torch

from benchmarks.gpu.checks.base import Finding, Site, check
from engine.vllm.paged import PagedCache

_LAYERS, _BLOCKS, _HEADS, _SIZE, _WIDTH = 3, 40, 4, 16, 64


@check
def paged_cache(site: Site) -> Finding:
    """Runs of tokens written into scattered blocks come back bit by bit, and no other slot changes."""
    generator = torch.Generator(site.device).manual_seed(5)
    dtype = getattr(torch, site.plan.dtype)
    shape = (_BLOCKS, _HEADS, _SIZE, 2 * _WIDTH)
    layers = [torch.zeros(shape, device=site.device, dtype=dtype) for _ in range(_LAYERS)]
    cache = PagedCache(layers, "joined")
    wrong = []
    block_ids = [17, 3, 29, 8, 31, 0, 12]
    for position, n in ((0, 16), (5, 70), (31, 1), (48, 64)):
        for layer in layers:
            layer.zero_()
        keys, values = (
            torch.randn(cache.shape(n), generator=generator, device=site.device).to(dtype) for _ in range(2)
        )
        cache.write(block_ids, position, keys, values)
        found = cache.read(block_ids, position, position + n)
        if not (torch.equal(found[0], keys) and torch.equal(found[1], values)):
            wrong.append(f"{n} tokens at {position} came back otherwise")
        written = sum(int((layer != 0).any(dim=3).sum()) for layer in layers)
        if written != _LAYERS * _HEADS * n:
            wrong.append(f"{written} slots were written for {n} tokens at {position}")
    return Finding(not wrong, {"runs": 4}, "; ".join(wrong))
