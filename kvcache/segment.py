"""Segments: immutable runs of tokens with their keys and values."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from kvcache import hashing
from kvcache.copies import indexed, moved
from kvcache.fingerprint import Fingerprint, Layout
from kvcache.shard import Shard

assert sys.byteorder == "little", "segment keys and files are defined over little-endian integers"


def root_key(fingerprint: Fingerprint, salt: str = "") -> str:
    """Return the parent of a chain's first segment: one per model and ``salt`` (a tenant), so that nothing is shared
    across either."""
    return root_of(fingerprint.digest, salt)


def root_of(digest: str, salt: str) -> str:
    """Return :func:`root_key` of the model whose fingerprint has this digest."""
    return hashing.digest(f"root|{digest}|{salt}".encode())


def chain_key(parent: str, token_ids: Sequence[int] | np.ndarray) -> str:
    """Return the key of the segment that holds ``token_ids`` after the chain that ends in ``parent``.

    By induction the key stands for the model, the salt and every token from position 0 on.
    """
    tokens = np.asarray(token_ids, dtype=np.int32)
    return hashing.digest(bytes.fromhex(parent) + tokens.tobytes())


def standalone_root(header_key: str) -> str:
    """Return the parent of everything that is built to be moved, behind the header whose chain ends in
    ``header_key``."""
    return hashing.digest(b"standalone|" + bytes.fromhex(header_key))


def page_root(fingerprint: Fingerprint, salt: str, header: Sequence[int]) -> str:
    """Return :func:`standalone_root` of a header by its tokens."""
    return standalone_root(chain_key(root_key(fingerprint, salt), header))


@dataclass(frozen=True)
class Part:
    """A run of a standalone segment's tokens that may be used without the others: one memory of a page.

    ``key`` is :func:`chain_key` of the standalone root and the part's tokens: it stands for the text behind a
    header, wherever it was built. ``begin`` counts from the segment's first token.
    """

    key: str
    begin: int
    n_tokens: int
    label: str | None = None

    @property
    def end(self) -> int:
        return self.begin + self.n_tokens


@dataclass(frozen=True)
class Certificate:
    """A standalone segment's divergence from exact, measured when it was built, by fidelity (``high``, ``fast``).

    ``kl``: mean Kullback-Leibler divergence in nats from the next-token distributions of full prefill; ``top1``:
    share of positions whose likeliest token is the same. Both over probes derived from the segment's own text,
    behind a context that it was not built behind.
    """

    kl: dict[str, float]
    top1: dict[str, float]

    def admits(self, fidelity: str, max_kl: float) -> bool:
        """Say whether composing the segment at ``fidelity`` stays within the bound."""
        return self.kl.get(fidelity, float("inf")) <= max_kl


@dataclass(frozen=True)
class Lead:
    """Tokens of other memories that a page is computed behind, so that its parts are not computed as if nothing stood
    before them, and the labels of these memories."""

    token_ids: Sequence[int] = ()
    labels: frozenset[str] = frozenset()


NO_LEAD = Lead()


@dataclass(frozen=True, eq=False)
class Segment:
    """Keys and values of a run of tokens, *chained* (computed after an exact, known prefix) or *standalone*.

    ``keys`` (after rotary embedding) and ``values`` are [layers, kv_heads, tokens, head_dim] on one device, in
    the fingerprint's dtype, and are never written to. ``start`` is the position at which the first token was
    computed. ``labels`` name the memories that the numbers depend on. Standalone segments are pages of one or more
    ``parts``, built behind a header and a *lead* (tokens of other memories, so that the parts are not computed as
    if nothing stood before them); they may be moved and composed, at the fidelity that ``certificate`` says. Build
    one with :meth:`chained` or :meth:`standalone`. ``shard`` says which layers and heads the tensors hold where that
    is not all of them.
    """

    key: str
    parent: str
    fingerprint: str
    start: int
    token_ids: tuple[int, ...]
    keys: torch.Tensor
    values: torch.Tensor
    labels: frozenset[str] = frozenset()
    root: str | None = None
    parts: tuple[Part, ...] = ()
    certificate: Certificate | None = None
    shard: Shard | None = None

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
        shard: Shard | None = None,
    ) -> Segment:
        """Make a segment whose key follows from its parent and tokens. Raises ``ValueError`` on a wrong shape or
        dtype."""
        _check_tensors(fingerprint.layout, len(token_ids), keys, values, shard)
        tokens = tuple(int(token) for token in token_ids)
        key = chain_key(parent, tokens)
        return cls(key, parent, fingerprint.digest, start, tokens, keys, values, labels, shard=_partial(shard))

    @classmethod
    def standalone(
        cls,
        header_key: str,
        fingerprint: Fingerprint,
        start: int,
        parts: Sequence[tuple[Sequence[int], str | None]],
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        lead: Lead = NO_LEAD,
        shard: Shard | None = None,
    ) -> Segment:
        """Make a page of ``parts`` (token ids and label each), computed behind the header and ``lead`` at ``start``.
        Raises ``ValueError`` on a wrong shape or dtype."""
        tokens = tuple(int(token) for token_ids, _ in parts for token in token_ids)
        _check_tensors(fingerprint.layout, len(tokens), keys, values, shard)
        root = standalone_root(header_key)
        parent = chain_key(root, lead.token_ids)
        own = frozenset(label for _, label in parts if label is not None)
        return cls(
            key=chain_key(parent, tokens),
            parent=parent,
            fingerprint=fingerprint.digest,
            start=start,
            token_ids=tokens,
            keys=keys,
            values=values,
            labels=own | lead.labels,
            root=root,
            parts=cut_parts(root, tokens, [(len(token_ids), label) for token_ids, label in parts]),
            shard=_partial(shard),
        )

    def certified(self, certificate: Certificate) -> Segment:
        """Return the same page with this certificate."""
        return replace(self, certificate=certificate)

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

    @property
    def held(self) -> Shard:
        """The layers and heads that the tensors hold."""
        layers, heads = self.keys.shape[:2]
        return self.shard or Shard.whole(layers, heads)

    def cut(self, wanted: Shard) -> Segment:
        """Return only these layers and heads of the segment, as views. Raises ``ValueError`` when it does not hold
        them."""
        held = self.held
        if held.overlap(wanted) != wanted:
            raise ValueError(f"{held.name} does not hold {wanted.name}")
        layers, heads = wanted.within(held)
        return replace(self, keys=self.keys[layers, heads], values=self.values[layers, heads], shard=_partial(wanted))

    def to(self, device: torch.device) -> Segment:
        """Return the same segment on ``device``, all of its bytes there (itself where it is there already)."""
        device = indexed(device)
        if self.keys.device == device:
            return self
        keys, values = moved((self.keys, self.values), device)
        return replace(self, keys=keys, values=values)


def cut_parts(root: str, token_ids: Sequence[int], lengths: Sequence[tuple[int, str | None]]) -> tuple[Part, ...]:
    """Return the parts of a page from their lengths and labels. Raises ``ValueError`` when they do not fill it."""
    parts = []
    begin = 0
    for n_tokens, label in lengths:
        end = begin + n_tokens
        if n_tokens < 1 or end > len(token_ids):
            break
        parts.append(Part(chain_key(root, token_ids[begin:end]), begin, n_tokens, label))
        begin = end
    if begin != len(token_ids) or len(parts) != len(lengths):
        raise ValueError(f"parts of {[n for n, _ in lengths]} tokens do not fill a page of {len(token_ids)}")
    return tuple(parts)


def _partial(shard: Shard | None) -> Shard | None:
    return None if shard is None or shard.is_whole else shard


def joined(segments: Sequence[Segment], wanted: Shard) -> Segment:
    """Join shards to one segment with the wanted layers and heads, copied from shards of it. Raises ``ValueError`` when
    they do not hold all of it or are shards of different segments."""
    first = segments[0]
    shape = (wanted.layers[1] - wanted.layers[0], wanted.heads[1] - wanted.heads[0], *first.keys.shape[2:])
    keys, values = first.keys.new_empty(shape), first.values.new_empty(shape)
    filled = 0
    for segment in segments:
        overlap = segment.held.overlap(wanted)
        if segment.key != first.key or segment.fingerprint != first.fingerprint:
            raise ValueError("shards of different segments")
        if overlap is not None:
            into, source = overlap.within(wanted), overlap.within(segment.held)
            keys[into] = segment.keys[source]
            values[into] = segment.values[source]
            filled += overlap.area
    if filled != wanted.area:
        raise ValueError(f"the shards hold {filled} of {wanted.area} layers x heads")
    return replace(first, keys=keys, values=values, shard=_partial(wanted))


def _check_tensors(
    layout: Layout, n_tokens: int, keys: torch.Tensor, values: torch.Tensor, shard: Shard | None = None
) -> None:
    shape = layout.shape(n_tokens)
    if shard is not None:
        if shard.of != shape[:2]:
            raise ValueError(f"a shard of {shard.of} in a model of {shape[:2]}")
        shape = (shard.layers[1] - shard.layers[0], shard.heads[1] - shard.heads[0], n_tokens, layout.head_dim)
    if n_tokens < 1 or tuple(keys.shape) != shape or tuple(values.shape) != shape:
        raise ValueError(f"keys {tuple(keys.shape)} and values {tuple(values.shape)} must be {shape}")
    if keys.dtype != layout.torch_dtype or values.dtype != keys.dtype:
        raise ValueError(f"keys are {keys.dtype}, the fingerprint says {layout.dtype}")
