"""How much background work is done in one step."""

from __future__ import annotations

# What a request that arrives in the middle of a step may have to wait for it.
TARGET_S = 0.1


class Pace:
    """Prompt tokens a background step: between ``least`` and ``most``, as many as take about ``TARGET_S`` here.

    Small steps let requests in soon, large ones use the machine better: how large is a matter of its speed, so it is
    doubled while full steps take less than half of the target, and halved where they take more than twice of it.
    """

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, max(least, most)
        self.tokens = least

    def observe(self, n_tokens: int, seconds: float) -> None:
        """A step of ``n_tokens`` took so long. Steps that were not full say nothing of fuller ones."""
        if n_tokens >= self.tokens and seconds < TARGET_S / 2:
            self.tokens = min(2 * self.tokens, self._most)
        elif seconds > 2 * TARGET_S:
            self.tokens = max(self.tokens // 2, self._least)
