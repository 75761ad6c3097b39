"""The catalogue as one model sees it: segments by the tokens that they hold, so that callers need no key algebra."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

from kvcache.catalogue import Catalogue
from kvcache.entry import Entry
from kvcache.fingerprint import Fingerprint
from kvcache.ledger import PreloadStats
from kvcache.ranking import Worth
from kvcache.segment import Part, chain_key, page_root, root_key, standalone_root
from kvcache.tiers import TierName


class SegmentView(Protocol):
    """The segments that are stored for one model. Thread-safe."""

    @property
    @abstractmethod
    def fingerprint(self) -> Fingerprint:
        """The model's."""
        ...

    @abstractmethod
    def tier_of(self, key: str) -> TierName | None:
        """Return the fastest tier that holds the segment now; None where it is nowhere, or another model's."""
        ...

    @abstractmethod
    def match(self, root: str, token_ids: Sequence[int]) -> list[Entry]:
        """Find the longest stored chain below ``root`` whose tokens begin ``token_ids``."""
        ...

    @abstractmethod
    def find_part(self, part_key: str) -> list[tuple[Entry, Part]]:
        """Find the pages that hold this part."""
        ...

    @abstractmethod
    def locate_part(self, part_key: str) -> tuple[str, int] | None:
        """Return the key of a page that holds this part, and where in it; the same one each time. None: there is
        none."""
        ...

    @abstractmethod
    def holding(self, labels: Iterable[str], root: str) -> list[Entry]:
        """List segments that hold any of these memories: chained ones, and the pages below ``root``."""
        ...

    @abstractmethod
    def rank_by(self, worth: Worth | None) -> None:
        """Say what segments are worth to the memory tiers from now on; None: the least recently used leave first."""
        ...

    @abstractmethod
    def preloads(self) -> PreloadStats:
        """Return what became of preloaded segments so far."""
        ...

    def start(self, tenant: str) -> Prefix:
        """Return the empty prefix of a tenant's prompts."""
        return Prefix(self, root_key(self.fingerprint, tenant))

    def behind(self, tenant: str, header: Sequence[int]) -> Prefix:
        """Return the prefix of a tenant's prompts that is just this header."""
        return self.start(tenant).then(header)


class Prefix:
    """Tokens from position 0 on in a tenant's prompts. ``key`` stands for all of them: it is that of the chained
    segment that ends with them."""

    __slots__ = ("_root", "_view", "key")

    def __init__(self, view: SegmentView, key: str) -> None:
        self._view = view
        self._root: str | None = None
        self.key = key

    def then(self, token_ids: Sequence[int]) -> Prefix:
        """Return the prefix that goes on with these tokens."""
        return Prefix(self._view, chain_key(self.key, token_ids))

    @property
    def is_stored(self) -> bool:
        """True where a chained segment that ends here is in any tier."""
        return self._view.tier_of(self.key) is not None

    def match(self, token_ids: Sequence[int]) -> list[Entry]:
        """Find the longest stored chain behind this prefix whose tokens begin ``token_ids``."""
        return self._view.match(self.key, token_ids)

    @property
    def pages_root(self) -> str:
        """The root of all pages that are built behind this prefix, a header."""
        if self._root is None:
            self._root = standalone_root(self.key)
        return self._root

    def parts(self, token_ids: Sequence[int]) -> list[tuple[Entry, Part]]:
        """Find the pages behind this header that hold these tokens as a part."""
        return self._view.find_part(chain_key(self.pages_root, token_ids))

    def page_of(self, token_ids: Sequence[int]) -> tuple[str, int] | None:
        """Return the key of a page behind this header that holds these tokens as a part, and where in it; the same one
        each time. None: there is none."""
        return self._view.locate_part(chain_key(self.pages_root, token_ids))

    def holding(self, labels: Iterable[str]) -> list[Entry]:
        """List segments that hold any of these memories: chained ones, and the pages behind this header."""
        return self._view.holding(labels, self.pages_root)


class ModelView(SegmentView):
    """The part of a catalogue that is of the model with this fingerprint."""

    def __init__(self, catalogue: Catalogue, fingerprint: Fingerprint) -> None:
        self.catalogue = catalogue
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> Fingerprint:
        """The model's."""
        return self._fingerprint

    def tier_of(self, key: str) -> TierName | None:
        """Return the fastest tier that holds the segment now; None where it is nowhere, or another model's."""
        return self.catalogue.tier_of(key, self._fingerprint)

    def match(self, root: str, token_ids: Sequence[int]) -> list[Entry]:
        """Find the longest stored chain below ``root`` whose tokens begin ``token_ids``."""
        return self.catalogue.match(root, token_ids)

    def find_part(self, part_key: str) -> list[tuple[Entry, Part]]:
        """Find the pages that hold this part."""
        return self.catalogue.find_part(part_key)

    def locate_part(self, part_key: str) -> tuple[str, int] | None:
        """Return the key of a page that holds this part, and where in it."""
        return self.catalogue.locate_part(part_key)

    def holding(self, labels: Iterable[str], root: str) -> list[Entry]:
        """List segments that hold any of these memories: chained ones, and the pages below ``root``, in the order of
        their keys."""
        index = self.catalogue.index
        with self.catalogue.lock:
            keys = {key for label in labels for key in index.with_label(label)}
            found = [entry for key in sorted(keys) if (entry := index.get(key)) is not None]
        digest = self._fingerprint.digest
        return [entry for entry in found if entry.root in (None, root) and entry.fingerprint == digest]

    def rank_by(self, worth: Worth | None) -> None:
        """Say what segments are worth to the memory tiers from now on; None: the least recently used leave first."""
        self.catalogue.ranker.use(worth)

    def preloads(self) -> PreloadStats:
        """Return what became of preloaded segments so far."""
        return self.catalogue.ledger.stats

    def pages(self, tenant: str, header: Sequence[int] | None) -> list[Entry]:
        """List a tenant's pages, as far as is known whose they are: a page's root is a hash of the tenant and of a
        header's tokens. Known are the headers that are stored, and ``header``."""
        entries, top = self.catalogue.entries(), root_key(self._fingerprint, tenant)
        roots = {standalone_root(entry.key) for entry in entries if entry.parent == top}
        if header is not None:
            roots.add(page_root(self._fingerprint, tenant, header))
        return [entry for entry in entries if entry.root in roots]
