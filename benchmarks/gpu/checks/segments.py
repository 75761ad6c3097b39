"""Segments on their way through the tiers: they come back bit by bit, whatever is evicted meanwhile."""

from __future__ import annotations

import logging

import torch

from benchmarks.gpu.checks.base import Finding, Site, check
from benchmarks.lab.run import Settings, run
from benchmarks.lab.suites import Suite
from kvcache import Fingerprint, Layout, Segment, TieredStore, chain_key, read_segment, root_key
from kvcache.files.folder import SegmentFolder

log = logging.getLogger(__name__)

_EVICTIONS = 20
# A stored context may diverge from direct prefill in one go this many times as far as the control does, or as this
# share of what keys that are one token off do: a single control may be near by chance.
_TIMES, _SHARE = 10.0, 0.125


@check
def tiers_bitwise(site: Site) -> Finding:
    """Direct prefill cut at the context's end = resident = host = disk, in every bit of the logits; and each hardly
    further from direct prefill in one go than direct prefill in other chunks is."""
    suite = Suite("check", (site.plan.check_cell,), fidelities=("high", "fast"), rounds=1, answer_tokens=2)
    settings = Settings(
        suite=suite,
        models=(site.plan.checked,),
        weights="random",
        device=site.plan.device,
        dtype=site.plan.dtype,
        folder=site.folder,
    )
    result = run(settings, log.info)
    wrong = [f"{one['what']}: {one['reason']}" for one in (*result["failed"], *result["skipped"])]
    figures = {}
    for row in result["rows"]:
        name = row["mode"] + (f" {row['fidelity']}" if row["fidelity"] else "")
        outputs = figures[name] = row["outputs"]
        if outputs["is_blind"]:
            wrong.append(f"{name}: the logits do not depend on the context")
        if outputs["bitwise"] is False:
            wrong.append(f"{name}: other logits than direct prefill cut there, KL {outputs['kl']:.3g}")
        bound = max(_TIMES * outputs["control_kl"], _SHARE * outputs["shifted_kl"])
        if outputs["bitwise"] is not None and not outputs["kl"] <= bound:
            wrong.append(f"{name}: KL {outputs['kl']:.3g}, at most {bound:.3g}")
    if not wrong and len(figures) != 6:
        wrong.append(f"only {', '.join(figures)} were measured")
    return Finding(not wrong, figures, "; ".join(wrong))


@check
def evictions(site: Site) -> Finding:
    """Held-back segments that are evicted at once, device tier of one and no host tier: every file has the numbers that
    were put. A write that begins before its copy to the host has ended does not."""
    layout = Layout(4, 2, 64, site.plan.dtype)
    fingerprint = Fingerprint("0" * 64, "0" * 64, "0" * 64, "0" * 64, "full-causal", layout)
    n_tokens = 256 if site.device.type == "cpu" else 8192
    folder = site.folder / "evictions"
    generator = torch.Generator(site.device).manual_seed(1)
    nbytes = layout.bytes_per_token * n_tokens
    store = TieredStore(folder, device=site.device, device_bytes=nbytes + nbytes // 2, host_bytes=0)
    busy = torch.randn(2048, 2048, device=site.device) if site.device.type == "cuda" else None
    put = []
    try:
        for number in range(_EVICTIONS):
            keys, values = (
                torch.randn(layout.shape(n_tokens), generator=generator, device=site.device, dtype=layout.torch_dtype)
                for _ in range(2)
            )
            parent = root_key(fingerprint, f"{number}")
            segment = Segment.chained(parent, fingerprint, 0, range(n_tokens), keys, values)
            put.append(segment)
            if busy is not None:  # the copy waits behind this in the stream
                for _ in range(20):
                    busy = busy @ busy * 1e-3
            store.put(segment, durable=False)
        store.flush()
    finally:
        store.close()
    wrong = []
    for segment in put:
        key = chain_key(segment.parent, segment.token_ids)
        read = read_segment(SegmentFolder(folder).path_of(key), fingerprint)
        if not (torch.equal(read.keys, segment.keys.cpu()) and torch.equal(read.values, segment.values.cpu())):
            wrong.append(key[:12])
    note = f"{len(wrong)} of {len(put)} files have other numbers than were put" if wrong else ""
    return Finding(not wrong, {"evicted": len(put), "wrong": len(wrong), "mb_each": round(nbytes / 1e6, 2)}, note)
