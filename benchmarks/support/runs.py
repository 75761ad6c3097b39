"""A prefix cache as a radix tree of runs, whose eviction is ranked by a model of reuse.

Blocks that were always used together are one *run*. The tree is of all requests so far, whatever is resident, and so is
one for caches of any size; a :class:`RunCache` says how much of each run is resident, which always is a prefix.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.reuse import Column
from scheduler.prediction.learning import Matrix

ROOT = 0
Nodes = NDArray[np.intp]
Rank = Callable[[Matrix], Matrix]


@dataclass(frozen=True)
class Split:
    """A run was cut, because a request used its first ``blocks`` only; these keep the node ``upper``."""

    upper: int
    lower: int
    blocks: int


@dataclass(frozen=True)
class Use:
    """A request's runs, from the root on; the first ``known`` of them were in the tree before."""

    path: list[int]
    known: int
    split: Split | None


class RunTree:
    """All requests so far. Nodes are numbers; the root is 0 and has no blocks.

    Parameters
    ----------
    block_tokens: of a full block.
    """

    def __init__(self, block_tokens: int) -> None:
        self._tokens = block_tokens
        self.runs: list[list[int]] = [[]]
        self.parents: list[int] = [ROOT]
        self.starts: list[int] = [0]  # blocks before the node
        self.sequence: list[int] = [0]  # number of the last request that used the node
        self._children: list[dict[int, int]] = [{}]
        self._used = np.zeros(1024)  # seconds
        self._stats = np.zeros((1024, len(Column)), np.float32)  # the columns that do not change with time
        self._requests = 0

    def __len__(self) -> int:
        return len(self.runs)

    def use(self, blocks: Sequence[int], now: float, partial: bool, output: int) -> Use:
        """A request's blocks, the last of them ``partial`` or not; ``output`` tokens were answered."""
        path, split, found = self._find(list(blocks))
        known, new = len(path), list(blocks[found:])
        self._stats[path, Column.GAP] = now - self._used[path]
        # Nothing continues a partial block, so it must not share the fate of those before it.
        for run in (new[:-1], new[-1:]) if partial else (new,):
            if run:
                path.append(self._add(path[-1] if path else ROOT, run))
        if partial and new:
            self._stats[path[-1], Column.PARTIAL] = 1
        self._requests += 1
        for node in path:
            self.sequence[node] = self._requests
        self._used[path] = now
        self._stats[path, Column.USES] += 1
        self._stats[path, Column.NEW] = len(new) / len(blocks)
        self._stats[path, Column.OUTPUT] = output
        self._stats[path, Column.DEPTH] = np.arange(len(path)) + 1
        self._stats[path, Column.AFTER] = np.arange(len(path))[::-1]
        return Use(path, known, split)

    def _find(self, blocks: list[int]) -> tuple[list[int], Split | None, int]:
        path, split, found, node = [], None, 0, ROOT
        while found < len(blocks) and split is None and blocks[found] in self._children[node]:
            node = self._children[node][blocks[found]]
            same = _common(self.runs[node], blocks[found:])
            if same < len(self.runs[node]):
                split = self._split(node, same)
            path.append(node)
            found += same
        return path, split, found

    def _add(self, parent: int, run: list[int]) -> int:
        node = len(self.runs)
        if node == len(self._used):
            self._used = np.concatenate([self._used, np.zeros_like(self._used)])
            self._stats = np.concatenate([self._stats, np.zeros_like(self._stats)])
        self.runs.append(run)
        self.parents.append(parent)
        self.starts.append(self.starts[parent] + len(self.runs[parent]))
        self.sequence.append(0)
        self._children.append({})
        self._children[parent][run[0]] = node
        stats, above = self._stats[node], self._stats[parent]
        above[Column.CHILDREN] += 1
        stats[Column.START] = self.starts[node] * self._tokens
        stats[Column.LENGTH] = len(run) * self._tokens
        return node

    def _split(self, upper: int, blocks: int) -> Split:
        run, children = self.runs[upper], self._children[upper]
        before = self._stats[upper].copy()
        self.runs[upper], self._children[upper] = run[:blocks], {}
        self._stats[upper, Column.LENGTH] = blocks * self._tokens
        self._stats[upper, [Column.CHILDREN, Column.PARTIAL]] = 0
        lower = self._add(upper, run[blocks:])
        before[[Column.START, Column.LENGTH]] = self._stats[lower, [Column.START, Column.LENGTH]]
        self._stats[lower] = before
        self._used[lower], self.sequence[lower] = self._used[upper], self.sequence[upper]
        self._children[lower] = children
        for child in children.values():
            self.parents[child] = lower
        return Split(upper, lower, blocks)

    def histories(self, nodes: Sequence[int] | Nodes, now: float) -> Matrix:
        """Return what :class:`~benchmarks.support.reuse.ReuseModel` takes, float32 [nodes, len(Column)]."""
        picked = np.asarray(nodes, np.intp)
        above = np.fromiter((self.parents[node] for node in picked.tolist()), np.intp, len(picked))
        rows = self._stats[picked]
        rows[:, Column.AGE] = now - self._used[picked]
        rows[:, Column.PARENT_AGE] = np.where(above == ROOT, rows[:, Column.AGE], now - self._used[above])
        rows[:, Column.PARENT_GAP] = self._stats[above, Column.GAP]
        rows[:, Column.PARENT_CHILDREN] = self._stats[above, Column.CHILDREN]
        return rows

    def recent(self, since: float) -> Nodes:
        """Nodes used at ``since`` (seconds) or later."""
        return np.flatnonzero(self._used[1 : len(self)] >= since) + 1


def _common(run: list[int], blocks: list[int]) -> int:
    """Blocks at the beginning that are the same."""
    shorter = min(len(run), len(blocks))
    if run[:shorter] == blocks[:shorter]:
        return shorter
    return next(i for i in range(shorter) if run[i] != blocks[i])


class RunCache:
    """The part of a tree that is resident in a cache of ``blocks`` blocks. The lowest rank goes first, from the
    deepest end."""

    def __init__(self, tree: RunTree, blocks: int) -> None:
        self._tree = tree
        self._room = blocks
        self._resident: dict[int, int] = {}  # blocks by node; a node's parent is resident in full
        self._children: dict[int, int] = {ROOT: 0}  # resident ones
        self._scores: dict[int, float] = {}
        self._heap: list[tuple[float, int, int, int]] = []

    def use(self, use: Use, scores: Sequence[float]) -> int:
        """A request; ``scores`` rank its path. Returns its hits: resident blocks from the first on."""
        if use.split:
            self._split(use.split)
        hits = 0
        for node, score in zip(use.path, scores, strict=True):
            length, held = len(self._tree.runs[node]), self._resident.get(node)
            if held is None:
                held = self._children[node] = 0
                self._children[self._tree.parents[node]] += 1
            hits += held
            self._room -= length - held
            self._resident[node] = length
            self._score(node, score)
        self._evict()
        return hits

    def rescore(self, rank: Rank, now: float) -> None:
        """Rank all that is resident anew: the histories grew older, and the model learned."""
        nodes = list(self._resident)
        self._scores = dict(zip(nodes, rank(self._tree.histories(nodes, now)).tolist(), strict=True))
        self._heap = [self._entry(node) for node in nodes if not self._children[node]]
        heapq.heapify(self._heap)

    def _score(self, node: int, score: float) -> None:
        self._scores[node] = score
        if not self._children[node]:
            self._push(node)

    def _push(self, node: int) -> None:
        heapq.heappush(self._heap, self._entry(node))

    def _entry(self, node: int) -> tuple[float, int, int, int]:
        # Among equals the least recently used goes first, and of one request the deepest.
        return self._scores[node], self._tree.sequence[node], -self._tree.starts[node], node

    def _split(self, split: Split) -> None:
        held = self._resident.get(split.upper, 0)
        if held <= split.blocks:
            return
        self._resident[split.upper], self._resident[split.lower] = split.blocks, held - split.blocks
        self._children[split.lower], self._children[split.upper] = self._children[split.upper], 1
        self._score(split.lower, self._scores[split.upper])

    def _evict(self) -> None:
        while self._room < 0:
            score, sequence, _, node = self._heap[0]
            held = self._resident.get(node, 0)
            stale = self._children.get(node, 0) or score != self._scores[node] or sequence != self._tree.sequence[node]
            if held and not stale and held > -self._room:
                self._resident[node] = held + self._room
                self._room = 0
                return
            heapq.heappop(self._heap)
            if held and not stale:
                self._remove(node, held)

    def _remove(self, node: int, held: int) -> None:
        parent = self._tree.parents[node]
        del self._resident[node], self._children[node]
        self._room += held
        self._children[parent] -= 1
        if parent != ROOT and not self._children[parent]:
            self._push(parent)
