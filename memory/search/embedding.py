"""Vectors of memories: what a memory says, with a little of what was said before it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memory.search.calibration import Calibration, calibrated
from memory.search.embed import Embedder, Role
from memory.types import Vector

# Weights of the memory before and the one before that (chosen with the weights of fusion, see memory.search.scoring).
_BEFORE = (0.3, 0.15)
_CACHED = 4096


class Embeddings:
    """An embedder that remembers its last vectors: what was said is soon the context of what is said next."""

    def __init__(self, embedder: Embedder, kept: Path) -> None:
        """``kept``: where the embedder's calibration is kept, once it is measured."""
        self._embedder = embedder
        self._kept = kept
        self._cache: OrderedDict[tuple[str, str], Vector] = OrderedDict()
        self._lock = threading.Lock()
        self._calibration = embedder.calibration
        self._measuring = threading.Lock()

    @property
    def name(self) -> str:
        """The embedder's name: vectors of another name are not comparable."""
        return self._embedder.name

    @property
    def calibration(self) -> Calibration:
        """The scale of the embedder's cosines, measured at first use unless the embedder says it. Raises
        ``EmbedderError``."""
        if self._calibration is None:
            with self._measuring:
                if self._calibration is None:
                    self._calibration = calibrated(self._kept, self.name, self._embedder.embed)
        return self._calibration

    def of(self, texts: Sequence[str], role: Role = "passage") -> list[Vector]:
        """Return a unit vector, float32 [dim], for each text. Raises ``EmbedderError``."""
        # What the embedder reads alike in both roles is remembered once: what is asked is often said next.
        prompt = self._embedder.prompts.get(role, "")
        with self._lock:
            known = {text: self._cache[prompt, text] for text in texts if (prompt, text) in self._cache}
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if missing:
            known.update(zip(missing, self._embedder.embed(missing, role), strict=True))
        with self._lock:
            for text in texts:
                self._cache[prompt, text] = known[text]
                self._cache.move_to_end((prompt, text))
            while len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return [known[text] for text in texts]

    def in_context(self, texts: Sequence[str], before: Sequence[Sequence[str]]) -> list[Vector]:
        """Return vectors of texts, each mixed with those of the texts ``before`` it (the nearest first)."""
        vectors = self.of([*texts, *(text for texts_before in before for text in texts_before)])
        rest = iter(vectors[len(texts) :])
        mixed: list[Vector] = []
        for vector, texts_before in zip(vectors, before, strict=False):
            total = vector.astype(np.float32)
            for weight, other in zip(
                (*_BEFORE, *([0.0] * len(texts_before))), [next(rest) for _ in texts_before], strict=False
            ):
                total = total + weight * other
            unit = total / max(float(np.linalg.norm(total)), 1e-12)
            mixed.append(unit.astype(np.float16).astype(np.float32))  # as it is stored: a restart changes no order
        return mixed

    def in_a_row(self, texts: Sequence[str], earlier: Sequence[str] = ()) -> list[Vector]:
        """Return vectors of texts that follow each other, and the ``earlier`` ones (in order)."""
        row = [*earlier, *texts]
        first = len(earlier)
        n = len(_BEFORE)
        return self.in_context(texts, [row[max(0, i - n) : i][::-1] for i in range(first, len(row))])

    def forget(self) -> None:
        """Drop the texts that are remembered."""
        with self._lock:
            self._cache.clear()
