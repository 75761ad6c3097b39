"""Graphs of large cubes on disk, so that a restart need not build them again.

A file is a copy, never the truth: on loading, it is brought up to the rows (a vector that was written after the file
was saved is put in again, one without a row is removed), and it is left aside when anything about it is odd.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from memory.search.calibration import Calibration
from memory.search.vectors import CubeIndex, GraphIndex
from memory.storage.base import Transaction

log = logging.getLogger(__name__)

# Clocks are set back a little at times: what was written shortly before a file was saved is put in again.
_SLACK_S = 5.0


@dataclass(frozen=True)
class _Manifest:
    embedder: str
    dim: int
    saved_at: float


class GraphFiles:
    """The saved graphs of one side store, in a folder beside its database."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, cube_id: str, graph: GraphIndex, embedder: str, dim: int) -> None:
        """Write a cube's graph."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.drop(cube_id)
        saved_at = time.time()
        graph.save(self._graph(cube_id))
        self._manifest(cube_id).write_text(json.dumps(asdict(_Manifest(embedder, dim, saved_at))))

    def drop(self, cube_id: str) -> None:
        """Remove a cube's graph: what it holds is to be forgotten, or is old."""
        self._manifest(cube_id).unlink(missing_ok=True)
        self._graph(cube_id).unlink(missing_ok=True)

    def load(self, tx: Transaction, cube_id: str, embedder: str, calibration: Calibration) -> CubeIndex | None:
        """Return the cube's vectors, as the rows have them; None where there is no graph that fits."""
        path = self._manifest(cube_id)
        if not path.is_file():
            return None
        try:
            manifest = _Manifest(**json.loads(path.read_text()))
            if manifest.embedder != embedder:
                return None
            graph = GraphIndex.load(self._graph(cube_id), manifest.dim)
            index = CubeIndex(graph=graph, calibration=calibration)
        except (OSError, ValueError, TypeError) as error:
            log.warning("the saved index of a cube is not used: %s", error)
            return None
        _bring_up(tx, cube_id, index, manifest.saved_at - _SLACK_S)
        return index

    def _graph(self, cube_id: str) -> Path:
        return self._folder / f"{cube_id}.usearch"

    def _manifest(self, cube_id: str) -> Path:
        return self._folder / f"{cube_id}.json"


def _bring_up(tx: Transaction, cube_id: str, index: CubeIndex, saved_at: float) -> None:
    assert index.graph is not None
    numbers = np.array(tx.vectors.numbers(cube_id), dtype=np.int64)
    for gone in np.setdiff1d(index.graph.rows(), numbers).tolist():
        index.remove(gone)
    missing = set(np.setdiff1d(numbers, index.graph.rows()).tolist())
    wanted = missing | tx.vectors.written_since(cube_id, saved_at)
    index.put(tx.vectors.of(sorted(wanted)))
