"""A candidate of a search with the parts of its score."""

from __future__ import annotations

from memory.storage.records import Candidate

VECTOR = 0.75
"""The weight of a cosine in a score."""


class Scored:
    """A candidate, what each signal adds to its score, and the sum."""

    __slots__ = ("data", "number", "parts", "score")

    def __init__(self, data: Candidate, **parts: float) -> None:
        self.data = data
        self.number = data.number
        self.parts = parts
        self.score = sum(parts.values())

    def add(self, signal: str, value: float) -> None:
        """Count a signal that has not been counted yet."""
        self.parts[signal] = value
        self.score += value
