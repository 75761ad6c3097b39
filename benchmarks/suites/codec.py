"""What each codec costs and takes away: bytes, speed on one core, and KL added.

The KL is that of answers over injected memories whose keys and values went through the codec, against the same ones as
they were: over 24 tokens generated greedily without a codec, teacher-forced. ``before_rotation`` stores keys as they
are before rotary embedding (turned back by their position), which some models quantise better.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.suites.fidelity import N_TOKENS, decode
from benchmarks.support.machine import measured_on
from engine.base import ChatMessage, MemoryText, Prompt
from engine.transformers import ModelRunner, SequenceKV, TransformersEngine, Work
from kvcache import CODECS, CodecName, Rotation, Segment, root_key
from kvcache.divergence import divergence

_PAGE = 512
_ROUNDS = 7


@dataclass(frozen=True)
class Row:
    """One codec. Shares are of bfloat16's bytes; GB (1e9 bytes) of decoded keys and values a second on one core."""

    codec: str
    before_rotation: bool
    lossless: bool
    share_of_bf16: float
    encode_gb_s: float
    decode_gb_s: float
    decode_bf16_gb_s: float
    kl_added: float
    top1: float


@dataclass(frozen=True)
class _Prompt:
    """A prompt's exact keys and values up to its turns, and what the model says then."""

    keys: torch.Tensor
    values: torch.Tensor
    turns: tuple[int, ...]
    tokens: list[int]
    logits: torch.Tensor


async def measure(
    engine: TransformersEngine, prompts: Sequence[tuple[str, Sequence[str]]], report: Callable[[str], None]
) -> dict[str, Any]:
    """``prompts``: a question and its memories each. Speeds are taken on one page's worth of the first prompt."""
    made = []
    for number, (question, memories) in enumerate(prompts, start=1):
        made.append(await engine.on_model(lambda runner, q=question, m=memories: _prompt(engine, runner, q, m)))  # type: ignore[misc]
        report(f"prompt {number} of {len(prompts)}")
    rows = []
    variants: list[tuple[CodecName, bool]] = [(name, False) for name in CODECS] + [("int8", True), ("int4", True)]
    for name, before_rotation in variants:
        report(name)
        rotation = engine.model.rotation if before_rotation else None
        if before_rotation and rotation is None:
            continue
        rows.append(await engine.on_model(lambda runner, n=name, r=rotation: _row(engine, runner, made, n, r)))  # type: ignore[misc]
    return {
        **measured_on(engine),
        "rows": [asdict(row) for row in rows],
    }


def _prompt(engine: TransformersEngine, runner: ModelRunner, question: str, memories: Sequence[str]) -> _Prompt:
    texts = [MemoryText(f"m{i}", text) for i, text in enumerate(memories)]
    pieces = engine.prompts.render([ChatMessage("user", question)], texts).pieces
    before = Prompt(pieces[:-1]).token_ids
    kv = SequenceKV(engine.fingerprint.layout, engine.model.device, len(before) + 256)
    runner.forward([Work(kv, before, 0)])
    keys, values = (tensor.cpu() for tensor in kv.copy_range(0, len(before)))
    tokens, logits = decode(runner, kv, runner.forward([Work(kv, pieces[-1].token_ids)]), N_TOKENS)
    return _Prompt(keys, values, pieces[-1].token_ids, tokens, logits.cpu())


def _row(
    engine: TransformersEngine,
    runner: ModelRunner,
    prompts: Sequence[_Prompt],
    name: CodecName,
    rotation: Rotation | None,
) -> Row:
    divergences = [_divergence(engine, runner, prompt, name, rotation) for prompt in prompts]
    page = prompts[0].keys[:, :, :_PAGE].contiguous(), prompts[0].values[:, :, :_PAGE].contiguous()
    share, encode, decode = _speed(name, *page)
    _, _, decode_bf16 = _speed(name, page[0].bfloat16(), page[1].bfloat16())
    return Row(
        codec=name,
        before_rotation=rotation is not None,
        lossless=CODECS[name].lossless,
        share_of_bf16=round(share, 4),
        encode_gb_s=round(encode, 2),
        decode_gb_s=round(decode, 2),
        decode_bf16_gb_s=round(decode_bf16, 2),
        kl_added=round(statistics.mean(kl for kl, _ in divergences), 6),
        top1=round(statistics.mean(same for _, same in divergences), 4),
    )


def _divergence(
    engine: TransformersEngine, runner: ModelRunner, prompt: _Prompt, name: CodecName, rotation: Rotation | None
) -> tuple[float, float]:
    keys, values = torch.empty_like(prompt.keys), torch.empty_like(prompt.values)
    positions = torch.arange(keys.shape[2])
    stored = prompt.keys if rotation is None else rotation.turned(prompt.keys, -positions)
    CODECS[name].decode(CODECS[name].encode(stored, prompt.values), keys, values)
    if rotation is not None:
        keys = rotation.turned(keys, positions)
    ids = [0] * keys.shape[2]
    segment = Segment.chained(root_key(engine.fingerprint), engine.fingerprint, 0, ids, keys, values)
    kv = SequenceKV(engine.fingerprint.layout, engine.model.device, 256)
    kv.inject(segment.to(engine.model.device), min_span=1)
    asked = [*prompt.turns, *prompt.tokens[:-1]]
    return divergence(prompt.logits, runner.forward([Work(kv, asked, N_TOKENS)]).cpu())


def _speed(name: CodecName, keys: torch.Tensor, values: torch.Tensor) -> tuple[float, float, float]:
    """Bytes as a share of bfloat16's, and GB/s of encoding and decoding, medians on one core."""
    codec = CODECS[name]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        encoding, decoding = [], []
        out = torch.empty_like(keys), torch.empty_like(values)
        for _ in range(_ROUNDS):
            begin = time.perf_counter()
            encoded = codec.encode(keys, values)
            encoding.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            codec.decode(encoded, *out)
            decoding.append(time.perf_counter() - begin)
    finally:
        torch.set_num_threads(threads)
    nbytes = keys.nbytes + values.nbytes
    stored = sum(tensor.nbytes for tensor in encoded.values())
    bf16 = 2 * (keys.numel() + values.numel())
    return stored / bf16, nbytes / statistics.median(encoding) / 1e9, nbytes / statistics.median(decoding) / 1e9
