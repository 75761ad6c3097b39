"""Keys and values of one sequence: segments where they lie, and a tail that grows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kvcache import Layout, Rotation, Segment

_TAIL_ROUND = 64


@dataclass(frozen=True, eq=False)
class Span:
    """Immutable keys and values, [layers, kv_heads, tokens, head_dim] each, all visible to later tokens. ``of``: the
    key of the segment whose first tokens they are, if any: spans of the same tokens of it are the same span."""

    keys: torch.Tensor
    values: torch.Tensor
    of: str | None = None

    @property
    def n_tokens(self) -> int:
        return self.keys.shape[2]


class SequenceKV:
    """All keys and values of one sequence: injected spans, then a tail that grows as tokens are computed."""

    def __init__(self, layout: Layout, device: torch.device, expected_tokens: int) -> None:
        self._layout = layout
        self._device = device
        self._expected = expected_tokens
        self.spans: list[Span] = []
        self.tail_tokens = 0
        self._keys = self._values = self._allocate(0)

    def _allocate(self, n_tokens: int) -> torch.Tensor:
        shape = self._layout.shape(n_tokens)
        return torch.empty(shape, dtype=self._layout.torch_dtype, device=self._device)

    @property
    def n_tokens(self) -> int:
        return sum(span.n_tokens for span in self.spans) + self.tail_tokens

    def inject(self, segment: Segment, min_span: int, limit: int | None = None) -> None:
        """Take over a segment's first ``limit`` tokens: by reference from ``min_span`` tokens on, else by copy.

        Every span costs one more attention call per layer and step, a copy costs once; short ones are copied.
        """
        n = segment.n_tokens if limit is None else limit
        keys, values = segment.keys[:, :, :n], segment.values[:, :, :n]
        if n >= min_span and self.tail_tokens == 0:
            self.spans.append(Span(keys, values, segment.key))
            return
        self.reserve(n)
        end = self.tail_tokens + n
        self._keys[:, :, self.tail_tokens : end] = keys
        self._values[:, :, self.tail_tokens : end] = values
        self.tail_tokens = end

    def open_region(self, n_tokens: int) -> None:
        """Lengthen the tail by ``n_tokens`` slots of zeros, to be filled by :meth:`place` or computed over."""
        self.reserve(n_tokens)
        for buffer in (self._keys, self._values):
            buffer[:, :, self.tail_tokens : self.tail_tokens + n_tokens] = 0.0
        self.tail_tokens += n_tokens

    def place(
        self, keys: torch.Tensor, values: torch.Tensor, position: int, computed_at: int, rotation: Rotation
    ) -> None:
        """Copy keys and values that were computed at position ``computed_at`` to ``position``, inside the tail."""
        begin = position - self.tail_begin
        end = begin + keys.shape[2]
        assert 0 <= begin < end <= self.tail_tokens, "only opened slots can be filled"
        rotation.turned(keys, position - computed_at, out=self._keys[:, :, begin:end])
        self._values[:, :, begin:end] = values

    @property
    def tail_begin(self) -> int:
        """Return the position of the tail's first slot."""
        return sum(span.n_tokens for span in self.spans)

    def fork(self, expected_tokens: int) -> SequenceKV:
        """Make a sequence that continues from here on its own. The common past is shared, not copied."""
        other = SequenceKV(self._layout, self._device, expected_tokens)
        other.spans = list(self.spans)
        if self.tail_tokens:
            other.spans.append(Span(*self._range(0, self.tail_tokens)))
        return other

    def reserve(self, n_new: int) -> None:
        """Make room for ``n_new`` more tokens in the tail (amortised: grows by at least half)."""
        needed = self.tail_tokens + n_new
        capacity = self._keys.shape[2]
        if needed <= capacity:
            return
        grown = max(needed, min(self._expected, needed * 4), capacity + capacity // 2)
        grown = -(-grown // _TAIL_ROUND) * _TAIL_ROUND
        for name in ("_keys", "_values"):
            fresh = self._allocate(grown)
            fresh[:, :, : self.tail_tokens] = getattr(self, name)[:, :, : self.tail_tokens]
            setattr(self, name, fresh)

    def copy_range(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Make contiguous copies of the keys and values of positions ``start`` to ``end``, which must lie in the
        tail."""
        keys, values = self._range(start - self.tail_begin, end - self.tail_begin)
        # Not contiguous(): a range that is the whole buffer would be the buffer itself.
        return keys.clone(memory_format=torch.contiguous_format), values.clone(memory_format=torch.contiguous_format)

    def _range(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert 0 <= start < end <= self.tail_tokens, "only computed tokens can be taken out"
        return self._keys[:, :, start:end], self._values[:, :, start:end]

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the whole tail buffers of one layer, [kv_heads, capacity, head_dim]."""
        return self._keys[index], self._values[index]

    def everything(self, n_new: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return keys and values of all layers: of each span, and of the tail with ``n_new`` further slots."""
        end = self.tail_tokens + n_new
        spans = [(span.keys, span.values) for span in self.spans]
        return [*spans, (self._keys[:, :, :end], self._values[:, :, :end])]

    def write(self, layer: int, where: slice | torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Write one layer's new keys and values, [kv_heads, new, head_dim] each, to tail slots."""
        self._keys[layer, :, where], self._values[layer, :, where] = key, value
