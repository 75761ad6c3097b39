"""Segments: immutable runs of tokens with their keys and values."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from blake3 import blake3

from kvcache.fingerprint import Fingerprint, Layout

assert sys.byteorder == "little", "segment keys and files are defined over little-endian integers"


def root_key(fingerprint: Fingerprint, salt: str = "") -> str:
    """The parent of a chain's first segment: one per model and ``salt`` (a tenant), so that nothing is shared
    across either."""
    return str(blake3(f"root|{fingerprint.digest}|{salt}".encode()).hexdigest())


def chain_key(parent: str, token_ids: Sequence[int] | np.ndarray) -> str:
    """Key of the segment that holds ``token_ids`` after the chain that ends in ``parent``.

    By induction the key stands for the model, the salt and every token from position 0 on.
    """
    tokens = np.asarray(token_ids, dtype=np.int32)
    return str(blake3(bytes.fromhex(parent) + tokens.tobytes()).hexdigest())


@dataclass(frozen=True, eq=False)
class Segment:
    """A chained segment: keys and values of tokens computed after an exact, known prefix.

    ``keys`` (after rotary embedding) and ``values`` are [layers, kv_heads, tokens, head_dim] on one device, in
    the fingerprint's dtype, and are never written to. ``start`` is the position of the first token.
    ``labels`` name the memories whose text the tokens hold. Build one with :meth:`chained`.
    """

    key: str
    parent: str
    fingerprint: str
    start: int
    token_ids: tuple[int, ...]
    keys: torch.Tensor
    values: torch.Tensor
    labels: frozenset[str] = frozenset()

    @classmethod
    def chained(
        cls,
        parent: str,
        fingerprint: Fingerprint,
        start: int,
        token_ids: Sequence[int],
        keys: torch.Tensor,
        values: torch.Tensor,
        labels: frozenset[str] = frozenset(),
    ) -> Segment:
        """A segment whose key follows from its parent and tokens. Raises ``ValueError`` on a wrong shape or
        dtype."""
        shape = fingerprint.layout.shape(len(token_ids))
        if not token_ids or tuple(keys.shape) != shape or tuple(values.shape) != shape:
            raise ValueError(f"keys {tuple(keys.shape)} and values {tuple(values.shape)} must be {shape}")
        if keys.dtype != fingerprint.layout.torch_dtype or values.dtype != keys.dtype:
            raise ValueError(f"keys are {keys.dtype}, the fingerprint says {fingerprint.layout.dtype}")
        tokens = tuple(int(token) for token in token_ids)
        key = chain_key(parent, tokens)
        return cls(key, parent, fingerprint.digest, start, tokens, keys, values, labels)

    @property
    def n_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def end(self) -> int:
        """Position after the last token."""
        return self.start + self.n_tokens

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    @property
    def layout(self) -> Layout:
        layers, kv_heads, _, head_dim = self.keys.shape
        return Layout(layers, kv_heads, head_dim, str(self.keys.dtype).removeprefix("torch."))

    def to(self, device: torch.device) -> Segment:
        """The same segment on ``device`` (itself where it is there already)."""
        if self.keys.device == device:
            return self
        return replace(
            self,
            keys=self.keys.to(device, non_blocking=True),
            values=self.values.to(device, non_blocking=True),
        )
