"""The index: which segments exist, in which chains, whose text they hold, how much they are used.

It lives in memory; what is on disk is mirrored in a database beside the files (``kvcache.mirror``). Without that (or
with a damaged one) it is rebuilt from the files' headers.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kvcache.entry import Entry
from kvcache.errors import SegmentCorrupt
from kvcache.files.folder import SegmentFolder, bytes_of_files, key_of_file
from kvcache.files.format import SUFFIX
from kvcache.files.shards import all_there
from kvcache.mirror import Mirror
from kvcache.segment import Certificate, Part, chain_key

log = logging.getLogger(__name__)


class Index:
    """In-memory catalogue with its mirror on disk. Not thread-safe: the store holds a lock around it."""

    def __init__(self, folder: SegmentFolder) -> None:
        self._folder = folder
        self._entries: dict[str, Entry] = {}
        self._children: defaultdict[str, defaultdict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self._by_label: defaultdict[str, set[str]] = defaultdict(set)
        self._by_part: defaultdict[str, dict[str, Part]] = defaultdict(dict)
        self._mirror = Mirror(folder.path / "index.sqlite")
        for entry in self._mirror.entries:
            self._insert(entry)
        self._mirror.entries.clear()
        self._reconcile(rebuild=self._mirror.is_new)

    def _reconcile(self, *, rebuild: bool) -> None:
        """Make catalogue and folder agree, by names alone.

        A file without a row was cut off between rename and commit: with a sound database it is removed (its
        memory may have been deleted since), without one it is adopted.
        """
        files: defaultdict[str, list[Path]] = defaultdict(list)
        for path in self._folder.files():
            files[key_of_file(path)].append(path)
        for path in self._folder.path.glob(f"[0-9a-f][0-9a-f]/.*{SUFFIX}.*.tmp"):
            path.unlink(missing_ok=True)
        there = {key for key, paths in files.items() if all_there(paths)}
        for key in [key for key in self._entries if key not in there]:
            self.forget(key)
        for key, entry in self._entries.items():
            entry.disk_bytes = bytes_of_files(files[key]) or entry.disk_bytes  # an empty file is there, and bad
        for key in files.keys() - self._entries.keys():
            adopted = _adoptable(key, all_there(files[key])) if rebuild and key in there else None
            if adopted is None:
                self._folder.remove(key)
            else:
                self._insert(adopted)
                self._mirror.write(adopted)
        for key in self.unreachable() if rebuild else ():  # of which memories, nobody could say any more
            self._folder.remove(key)
            self.forget(key)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def match(self, root: str, token_ids: Sequence[int]) -> list[Entry]:
        """Find the longest chain below ``root`` whose tokens begin ``token_ids``; empty where there is none."""
        chain: list[Entry] = []
        parent, rest = root, token_ids
        while True:
            lengths = sorted((n for n in self._children.get(parent, ()) if n <= len(rest)), reverse=True)
            keys = (chain_key(parent, rest[:n]) for n in lengths)
            entry = next((self._entries[key] for key in keys if key in self._entries), None)
            if entry is None:
                return chain
            chain.append(entry)
            parent, rest = entry.key, rest[entry.n_tokens :]

    def with_part(self, part_key: str) -> list[tuple[Entry, Part]]:
        """Find the pages that hold this part."""
        return [(self._entries[key], part) for key, part in self._by_part.get(part_key, {}).items()]

    def has_children(self, key: str) -> bool:
        return any(self._children.get(key, {}).values())

    def unreachable(self) -> list[str]:
        """List chained segments whose chain has a gap before them, so that no prompt can find them."""
        lost = [e for e in self._entries.values() if e.root is None and e.start > 0 and e.parent not in self._entries]
        return self.with_descendants(entry.key for entry in lost)

    def with_label(self, label: str) -> set[str]:
        return set(self._by_label.get(label, ()))

    def labels_behind(self, key: str) -> frozenset[str]:
        """Return the memories that a segment's numbers depend on: its own, and those of the chain before it."""
        found: frozenset[str] = frozenset()
        entry = self._entries.get(key)
        while entry is not None:
            found |= entry.labels
            entry = self._entries.get(entry.parent)
        return found

    def labels(self) -> set[str]:
        return {label for label, keys in self._by_label.items() if keys}

    def with_descendants(self, keys: Iterable[str]) -> list[str]:
        """List ``keys`` and all that was computed behind them, children before their parents."""
        found: dict[str, None] = {}
        stack = list(keys)
        while stack:
            key = stack.pop()
            if key not in found and key in self._entries:
                found[key] = None
                stack.extend(child for group in self._children.get(key, {}).values() for child in group)
        return sorted(found, key=lambda key: -self._entries[key].start)

    def below(self, root: str) -> list[str]:
        """List all chained segments below ``root``, children before their parents."""
        return self.with_descendants(key for group in self._children.get(root, {}).values() for key in group)

    def add(self, entry: Entry) -> None:
        """Enter a segment that is in memory only, or update the labels of a known one."""
        known = self._entries.get(entry.key)
        if known is None:
            self._insert(entry)
            return
        if self._label(known, entry.labels) and known.on_disk:
            self._mirror.write(known)

    def _label(self, entry: Entry, labels: frozenset[str]) -> bool:
        """Add labels to an entry. False when it has them already."""
        added = labels - entry.labels
        entry.labels |= added
        for label in added:
            self._by_label[label].add(entry.key)
        return bool(added)

    def _pass_on(self, entry: Entry) -> None:
        """Let the segments behind one whose file is gone go with its memories: nothing else would tell of them."""
        for key in [key for group in self._children.get(entry.key, {}).values() for key in group]:
            child = self._entries[key]
            if self._label(child, entry.labels) and child.on_disk:
                self._mirror.add_labels(key, child.labels)

    def stored(self, key: str, disk_bytes: int) -> None:
        """Take it that the segment's file is on disk: make the row durable with it."""
        entry = self._entries[key]
        entry.disk_bytes = disk_bytes
        before = self._entries.get(entry.parent)
        while before is not None and not before.on_disk:
            self._label(entry, before.labels)
            before = self._entries.get(before.parent)
        self._mirror.write(entry)

    def touch(self, key: str) -> None:
        """Count a use; written out with :meth:`save`."""
        entry = self._entries[key]
        entry.uses += 1
        entry.last_used_at = time.time()
        entry.dirty = True

    def set_protected(self, key: str, protected: bool) -> None:
        """Keep the segment whatever its value, or let it be evicted again."""
        self._entries[key].protected = protected
        self._mirror.protect(key, protected)

    def set_certificate(self, key: str, certificate: Certificate) -> None:
        """Enter the certificate of a page that is stored already."""
        entry = self._entries[key]
        entry.certificate = certificate
        if entry.on_disk:
            self._mirror.write(entry)

    def lost_file(self, key: str) -> None:
        """Take it that the segment's file is gone; it may live on in memory."""
        entry = self._entries[key]
        entry.disk_bytes = 0
        self._pass_on(entry)
        self._mirror.remove(key)

    def save(self) -> None:
        """Write the counted uses to disk."""
        dirty = [entry for entry in self._entries.values() if entry.dirty and entry.on_disk]
        self._mirror.save_uses(dirty)
        for entry in dirty:
            entry.dirty = False

    def close(self) -> None:
        self.save()
        self._mirror.close()

    def _insert(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        self._children[entry.parent][entry.n_tokens].add(entry.key)
        for label in entry.labels:
            self._by_label[label].add(entry.key)
        for part in entry.parts:
            self._by_part[part.key][entry.key] = part

    def forget(self, key: str) -> None:
        """Forget a segment that no tier has any more."""
        entry = self._entries.pop(key)
        self._pass_on(entry)
        siblings = self._children[entry.parent]
        siblings[entry.n_tokens].discard(key)
        if not siblings[entry.n_tokens]:
            del siblings[entry.n_tokens]
        if not siblings:
            del self._children[entry.parent]
        for part in entry.parts:
            self._by_part[part.key].pop(key, None)
            if not self._by_part[part.key]:
                del self._by_part[part.key]
        for label in entry.labels:
            self._by_label[label].discard(key)
            if not self._by_label[label]:
                del self._by_label[label]
        self._mirror.remove(key)


def _adoptable(key: str, paths: list[Path]) -> Entry | None:
    """Make the entry of files that are named after this segment; None where they are bad, or another one's."""
    try:
        entry = Entry.of_files(paths)
    except SegmentCorrupt as error:
        log.warning("not adopted: %s", error)
        return None
    if entry.key != key:
        log.warning("not adopted: %s holds the segment %s", paths[0].name, entry.key)
        return None
    return entry
