"""Scripts of a cube's text: an English embedder finds little in other ones."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from memory.storage.base import Transaction

log = logging.getLogger(__name__)

OTHER_SHARE = 0.2
"""From this share of letters that are not Latin on, an English embedder is the wrong one."""
LOOKED_AT = 200
"""So many of a cube's newest memories are looked at."""
_LEAST_LETTERS = 200
# A cube is looked at when it is first used, and again after so many more memories.
_AGAIN = 32
_LETTER = re.compile(r"[^\W\d_]")
_LATIN = re.compile("[A-Za-zªºÀ-ÖØ-öø-ʯḀ-ỿⱠ-ⱿꜢ-ꟿＡ-Ｚａ-ｚ]")


def other_share(texts: Sequence[str]) -> float:
    """Return the share of letters that are not Latin; 0 for too few letters to tell."""
    joined = " ".join(texts)
    letters = len(_LETTER.findall(joined))
    return 0.0 if letters < _LEAST_LETTERS else 1 - len(_LATIN.findall(joined)) / letters


class ScriptWatch:
    """Says in the log, once for each cube, that another embedder would find more in it."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._added: dict[str, int] = {}

    def look(self, tx: Transaction, cube_id: str) -> None:
        """Look at a cube, which is used for the first time."""
        self._added[cube_id] = 0
        if cube_id in self._told:
            return
        share = other_share([found.text for found in tx.lists.newest(LOOKED_AT, cube_id)])
        if share > OTHER_SHARE:
            self._told.add(cube_id)
            log.warning(
                "%.0f%% of the letters of cube %s are not Latin, and the embedder is for English:"
                " --embedder multilingual would find more in it",
                100 * share,
                cube_id,
            )

    def added(self, tx: Transaction, cube_id: str, n: int) -> None:
        """Count memories that were added, and look again when they are many."""
        if cube_id not in self._added:
            return
        self._added[cube_id] += n
        if self._added[cube_id] >= _AGAIN:
            self.look(tx, cube_id)
            del self._added[cube_id]
