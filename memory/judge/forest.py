"""A forest of decision trees and two linear probes, read from a file of weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

Floats = npt.NDArray[np.float32]
_Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Forest:
    """Boosted trees: each node goes left where its feature is at most its threshold (nan: as the node says); a leaf's
    children are itself. The sum of the leaves' values is a logit."""

    feature: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.float64]
    missing_left: npt.NDArray[np.bool_]
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    value: npt.NDArray[np.float64]
    roots: npt.NDArray[np.int32]
    baseline: float
    depth: int

    def probabilities(self, rows: Floats) -> Floats:
        """Return a probability for each row of features, float32 [rows]."""
        n, width = rows.shape
        flat = np.ascontiguousarray(rows).reshape(-1)
        begins = np.arange(n)[:, None] * width
        feature, children, roots = self._places
        gaps = bool(np.isnan(flat).any())
        at = np.repeat(roots[None], n, axis=0)
        for _ in range(self.depth):
            x = flat.take(feature.take(at) + begins)
            left = x <= self.threshold.take(at)
            if gaps:
                left |= np.isnan(x) & self.missing_left.take(at)
            at = children.take(2 * at + left)
        logits = self.baseline + self.value.take(at).sum(axis=1)
        found: Floats = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
        return found

    @cached_property
    def _places(self) -> tuple[_Places, _Places, _Places]:
        """Return the nodes' features, their right and left children in turn, and the roots, as numpy takes indices:
        others are converted at every step."""
        children = np.stack([self.right, self.left], axis=1).reshape(-1)
        return self.feature.astype(np.intp), children.astype(np.intp), self.roots.astype(np.intp)


@dataclass(frozen=True)
class Probes:
    """Two linear readings of unit vectors: of a pair, and of a new statement alone."""

    pair: Floats
    pair_bias: float
    new: Floats
    new_bias: float

    def read(self, older: Floats, new: Floats) -> Floats:
        """Return the readings of older vectors [n, dim] beside a new one [dim], float32 [n, 2]."""
        both = np.concatenate([older * new, np.abs(older - new)], axis=1)
        return np.stack(
            [both @ self.pair + self.pair_bias, np.full(len(older), new @ self.new + self.new_bias)], axis=1
        ).astype(np.float32)


@dataclass(frozen=True)
class Weights:
    """What was trained: the forest, the probes, and the thresholds of probability."""

    forest: Forest
    probes: Probes
    anchor: Floats
    """The vector of a sentence by which the embedder is known that the probes read."""
    features: tuple[str, ...]
    threshold: float
    threshold_other: float
    """For statements in other languages than English."""


def read_weights(path: Path) -> Weights:
    """Read weights, as ``tools.train_judge`` writes them."""
    with safe_open(str(path), framework="numpy") as file:
        arrays: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        notes = file.metadata()
    forest = Forest(
        feature=arrays["feature"],
        threshold=arrays["threshold"],
        missing_left=arrays["missing_left"].astype(np.bool_),
        left=arrays["left"],
        right=arrays["right"],
        value=arrays["value"],
        roots=arrays["roots"],
        baseline=float(arrays["baseline"][0]),
        depth=int(notes["depth"]),
    )
    probes = Probes(arrays["pair"], float(arrays["bias"][0]), arrays["new"], float(arrays["bias"][1]))
    return Weights(
        forest,
        probes,
        arrays["anchor"],
        tuple(notes["features"].split()),
        float(notes["threshold"]),
        float(notes["threshold_other"]),
    )
