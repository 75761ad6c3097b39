"""One token of many sequences, each over all of its spans wherever they lie: three Triton kernels a layer.

Spans come as a table of addresses and strides on the device, made once a pass, so nothing is copied, padded or joined,
and the number of launches depends neither on sequences nor on spans. A program is one token, one head of keys and one
part of the keys, and computes all query heads that share that head; the parts are merged by their log-sum-exp
(Flash-Decoding).

Importing this needs Triton.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from itertools import accumulate

import torch
import triton
import triton.language as tl
from triton.errors import TritonError

from engine.transformers.attention.kernels.base import Pairs
from engine.transformers.attention.kernels.written_out import written_out
from engine.transformers.upload import upload

# Numbers of one span: addresses of its keys and values in bytes, strides of layers and heads in elements, tokens.
_COLUMNS = tl.constexpr(5)
_BLOCK = 64
# So many programs keep a large GPU busy; the keys of a head are parted accordingly.
_PROGRAMS = 512
_MOST_PARTS = 64
_TYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


@triton.jit(do_not_specialize=["layer"])
def _write(
    key, value, table, begins, layer, key_head, key_token, value_head, value_token,
    KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Write a token's key and value, of head ``program_id(1)``, to the last slot of its sequence's last span."""
    token, head = tl.program_id(0), tl.program_id(1)
    dims = tl.arange(0, WIDTH)
    entry = table + (tl.load(begins + token + 1) - 1) * _COLUMNS
    offset = layer * tl.load(entry + 2) + head * tl.load(entry + 3) + (tl.load(entry + 4) - 1) * WIDTH
    keys = tl.load(entry).to(tl.pointer_type(DTYPE)) + offset
    values = tl.load(entry + 1).to(tl.pointer_type(DTYPE)) + offset
    tl.store(keys + dims, tl.load(key + head * key_head + token * key_token + dims))
    tl.store(values + dims, tl.load(value + head * value_head + token * value_token + dims))


@triton.jit(do_not_specialize=["layer"])
def _attend(
    query, parts, sums, table, begins, layer, scale, query_head, query_token,
    HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend with one token and head of keys to every ``num_programs(2)``-th block of each span: the result, and the
    logarithm of the sum of its weights to base 2."""
    token, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n_parts = tl.num_programs(2)
    rows, dims = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    heads = kv_head * GROUP + rows
    real = rows < GROUP
    q = tl.load(
        query + heads[:, None] * query_head + token * query_token + dims[None, :], mask=real[:, None], other=0.0
    )
    most = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, WIDTH], tl.float32)
    for span in range(tl.load(begins + token), tl.load(begins + token + 1)):
        entry = table + span * _COLUMNS
        offset = layer * tl.load(entry + 2) + kv_head * tl.load(entry + 3)
        # The compiler cannot tell that addresses out of a table are multiples of 16 bytes; told, it loads ahead.
        keys = tl.multiple_of(tl.load(entry).to(tl.pointer_type(DTYPE)) + offset, 16)
        values = tl.multiple_of(tl.load(entry + 1).to(tl.pointer_type(DTYPE)) + offset, 16)
        n = tl.load(entry + 4).to(tl.int32)
        for at in range(part * BLOCK, n, n_parts * BLOCK):
            columns = at + tl.arange(0, BLOCK)
            there = columns < n
            places = columns[:, None] * WIDTH + dims[None, :]
            k = tl.load(keys + places, mask=there[:, None], other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * 1.4426950408889634)
            scores = tl.where(there[None, :], scores, float("-inf"))
            higher = tl.maximum(most, tl.max(scores, 1))
            weights = tl.exp2(scores - higher[:, None])
            shrunk = tl.exp2(most - higher)
            v = tl.load(values + places, mask=there[:, None], other=0.0)
            found = found * shrunk[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
            total = total * shrunk + tl.sum(weights, 1)
            most = higher
    # A part may have got no block at all.
    whole = tl.where(total == 0.0, 1.0, total)
    at = (part * tl.num_programs(0) + token) * HEADS + heads
    tl.store(parts + at[:, None] * WIDTH + dims[None, :], found / whole[:, None], mask=real[:, None])
    tl.store(sums + at, tl.where(total == 0.0, float("-inf"), most + tl.log2(whole)), mask=real)


@triton.jit
def _merge(parts, sums, out, n_parts, rows, WIDTH: tl.constexpr, PARTS: tl.constexpr):
    """Join the parts of one token and head."""
    row = tl.program_id(0)
    part, dims = tl.arange(0, PARTS), tl.arange(0, WIDTH)
    real = part < n_parts
    share = tl.load(sums + part * rows + row, mask=real, other=float("-inf"))
    share = tl.exp2(share - tl.max(share, 0))
    share = share / tl.sum(share, 0)
    values = tl.load(parts + (part[:, None] * rows + row) * WIDTH + dims[None, :], mask=real[:, None], other=0.0)
    tl.store(out + row * WIDTH + dims, tl.sum(values * share[:, None], 0).to(out.dtype.element_ty))


def fits(head_dim: int) -> bool:
    """Say whether heads are as wide as the kernels can have them."""
    return head_dim >= 16 and head_dim & (head_dim - 1) == 0


class SpanTable:
    """The table of the places where the keys and values of one pass's sequences lie.

    Each sequence is pairs of [layers, kv_heads, tokens, head_dim], with head_dim and tokens innermost; the last pair
    ends with the slot of the token that is computed, which is written first.
    """

    def __init__(self, sequences: Sequence[Pairs]) -> None:
        first = sequences[0][-1][0]
        numbers: list[int] = []
        for pairs in sequences:
            for keys, values in pairs:
                width = keys.shape[3]
                if keys.stride()[2:] != (width, 1) or values.stride() != keys.stride():
                    raise ValueError("a span's tokens must lie behind each other, its keys as its values")
                numbers += [keys.data_ptr(), values.data_ptr(), *keys.stride()[:2], keys.shape[2]]
        begins = list(accumulate((len(pairs) for pairs in sequences), initial=0))
        uploaded = upload([*begins, *numbers], first.device)
        self._begins, self._table = uploaded[: len(begins)], uploaded[len(begins) :]
        self._sequences = sequences  # what is attended to must not be freed before the pass is through
        self._kv_heads = first.shape[1]
        longest = max(sum(keys.shape[2] for keys, _ in pairs) for pairs in sequences)
        wanted = _PROGRAMS // (len(sequences) * self._kv_heads)
        self._parts = max(1, min(wanted, _MOST_PARTS, -(-longest // _BLOCK)))

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Attend with a token of each sequence, query [1, heads, sequences, head_dim], key and value [kv_heads,
        sequences, head_dim]; the same shape as the query's."""
        _, heads, tokens, width = query.shape
        group = heads // self._kv_heads
        parts = torch.empty(self._parts, tokens, heads, width, dtype=torch.float32, device=query.device)
        sums = torch.empty(self._parts, tokens, heads, dtype=torch.float32, device=query.device)
        out = torch.empty(tokens, heads, width, dtype=query.dtype, device=query.device)
        dtype = _TYPES[query.dtype]
        _write[(tokens, self._kv_heads)](
            key, value, self._table, self._begins, layer, *key.stride()[:2], *value.stride()[:2],
            KV_HEADS=self._kv_heads, WIDTH=width, DTYPE=dtype, num_warps=1,
        )  # fmt: skip
        _attend[(tokens, self._kv_heads, self._parts)](
            query, parts, sums, self._table, self._begins, layer, scale, *query.stride()[1:3],
            HEADS=heads, GROUP=group, ROWS=max(16, triton.next_power_of_2(group)), WIDTH=width, BLOCK=_BLOCK,
            DTYPE=dtype, PRECISION="ieee", num_warps=4, num_stages=3,
        )  # fmt: skip
        _merge[(tokens * heads,)](
            parts, sums, out, self._parts, tokens * heads, WIDTH=width, PARTS=triton.next_power_of_2(self._parts)
        )
        return out.transpose(0, 1)[None]


# Spans of the sequences that the kernels are tried on, in tokens.
_TRIED = ((300, 77), (1,), (64, 128, 5))
_CLOSE, _CLOSE_IN_HALF = 1e-4, 0.05


def problem(device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int]) -> str | None:
    """Say why the kernels cannot be used on a device: they do not fit, fail, or differ from the definition in float64;
    None where they can. ``heads``: how many, how many with keys of their own, and their width."""
    n_heads, kv_heads, width = heads
    if not fits(width):
        return f"heads are {width} wide"
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    sequences = [[tuple(drawn(2, 2, kv_heads, n + 3, width)[:, :, :, :n]) for n in spans] for spans in _TRIED]
    query = drawn(len(_TRIED), n_heads, width).transpose(0, 1)[None]
    key, value = drawn(2, len(_TRIED), kv_heads, width).transpose(1, 2)
    try:
        found = SpanTable(sequences).attend(1, query, key, value, width**-0.5)
        off = 0.0
        for i, pairs in enumerate(sequences):
            keys, values = (
                torch.cat([part[1] for part in parts], 1)[None].double() for parts in zip(*pairs, strict=True)
            )
            expected, _ = written_out(query[:, :, i : i + 1].double(), keys, values, width**-0.5, False)
            off = max(off, (found[:, :, i : i + 1].double() - expected).abs().max().item())
            if not torch.equal(pairs[-1][0][1, :, -1], key[:, i]):
                return "a key is not where it was to be written"
    except (RuntimeError, OSError, subprocess.SubprocessError, TritonError) as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if not off <= (_CLOSE if dtype == torch.float32 else _CLOSE_IN_HALF):
        return f"error {off:.2g}"
    return None
