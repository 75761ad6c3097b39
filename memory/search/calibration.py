"""One scale for the cosines of all embedders. Unrelated English sentences have a cosine of about 0.07 with
all-MiniLM-L6-v2 and of 0.78 with multilingual-e5-small, Chinese ones of 0.86: no threshold would hold for both. So each
cosine is told by how far it lies above what the same text has with sentences that have nothing to do with it (as scores
are normalised by a cohort, Auckenthaler, Carey and Lloyd-Thomas 2000), in all-MiniLM-L6-v2's numbers."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from memory.types import Vector

log = logging.getLogger(__name__)

MIDDLE, DEVIATION = 0.067, 0.073
"""The mean and the deviation of the cosine of unrelated sentences with the bundled embedder (all-MiniLM-L6-v2)."""
# Two embedders whose figures differ by less than this have one scale.
_ALIKE = 0.01
# A deviation below this says that an embedder knows none of the sentences.
_LEAST = 1e-3
# Steeper or flatter than this, the scale would no longer rise everywhere.
_SLOPES = (0.25, 1.75)
_SLOW_S = 0.05
# In each language, sentences that have nothing to do with each other, of the kind that memories are.
_UNRELATED = (
    (
        "The ferry to the island leaves at half past six.",
        "My grandmother collects antique clocks.",
        "I paint the garden fence every spring.",
        "The committee postponed its vote until Thursday.",
        "My brother tunes pianos for a living.",
        "A strong password has at least four words.",
        "I like more salt in my soup.",
        "Penguins cannot fly, but they swim well.",
    ),
    (
        "图书馆每个星期一都不开门。",
        "我把雨伞忘在出租车上了。",
        "这种陶瓷要在窑里烧两次。",
        "我妹妹正在学拉手风琴。",
        "我们的会计明天交季度报表。",
    ),
    (
        "駅前の本屋は先月閉店しました。",
        "この魚は骨が多くて食べにくいです。",
        "弟は高校の天文部に入っています。",
        "契約書には印鑑が必要です。",
        "祖父は庭でメダカを飼っています。",
    ),
    (
        "도서관은 월요일마다 문을 닫아요.",
        "우리 삼촌은 오래된 우표를 모아요.",
        "저는 커피에 설탕을 넣지 않아요.",
        "그 다리는 백 년 전에 지어졌어요.",
        "프린터에 종이가 또 떨어졌어요.",
    ),
    (
        "Der Bus hält seit Montag nicht mehr am Rathaus.",
        "Bei mir im Keller steht eine alte Nähmaschine.",
        "Wale atmen durch die Lunge wie wir.",
        "Der Mietvertrag verlängert sich jedes Jahr.",
        "Meine Kollegin lernt gerade Norwegisch.",
    ),
    (
        "Le musée ferme plus tôt en hiver.",
        "Mon oncle répare des accordéons dans son garage.",
        "Il faut arroser les tomates ce soir.",
        "La réunion a été reportée à jeudi.",
        "Je prends toujours mon café sans sucre.",
    ),
    (
        "El faro se ve desde la carretera de la costa.",
        "La impresora de la oficina no tiene papel.",
        "Mi tía cultiva orquídeas raras.",
        "El partido terminó sin goles.",
        "Los pingüinos no vuelan, pero nadan muy bien.",
    ),
    (
        "Моя собака любит спать у камина.",
        "Лекция по истории начинается в девять утра.",
        "Я забыл ключи в раздевалке.",
        "Наша соседка печёт пироги с капустой.",
        "Этот мост построили сто лет назад.",
    ),
    (
        "القطار يصل بعد منتصف الليل بقليل.",
        "زرعت أمي شجرة ليمون في الحديقة.",
        "المكتبة مغلقة في أيام العطل.",
        "أخي يصلح الساعات القديمة.",
        "الحيتان تتنفس برئتيها.",
    ),
)


@dataclass(frozen=True)
class Scale:
    """What the cosines of one text mean: ``middle`` is the one with what it has nothing to do with; ``slope`` is how
    fast the scale rises there, 1 as the bundled embedder's; a cosine of 1 stays 1."""

    middle: float = MIDDLE
    slope: float = 1.0

    def scaled(self, cosine: float) -> float:
        """Return a cosine on the bundled embedder's scale."""
        if self is SAME_SCALE:
            return cosine
        part = (cosine - self.middle) / (1 - self.middle)
        bend = 1 - self.slope if part > 0 else 0.0
        return MIDDLE + (1 - MIDDLE) * (self.slope * part + bend * part * part)

    def unscaled(self, value: float) -> float:
        """Return the cosine whose place on the scale is ``value``."""
        if self is SAME_SCALE:
            return value
        part = (value - MIDDLE) / (1 - MIDDLE)
        bend = 1 - self.slope if part > 0 else 0.0
        root = math.sqrt(max(0.0, self.slope**2 + 4 * bend * part))
        return self.middle + (1 - self.middle) * 2 * part / (self.slope + root)


SAME_SCALE = Scale()


@dataclass(frozen=True, eq=False)
class Calibration:
    """An embedder's scale: the mean vector of unrelated sentences in several languages, float32 [dim], and the
    deviation of their cosines. Without any, its cosines are taken as they are."""

    centre: Vector = field(default_factory=lambda: np.zeros(0, np.float32))
    deviation: float = DEVIATION

    @property
    def english(self) -> bool:
        """Tell if it is the scale of an English model, or of none."""
        return not len(self.centre)

    def scale(self, vector: Vector) -> Scale:
        """Return the scale of one text's cosines, by its vector."""
        if len(self.centre) != len(vector) or not len(vector):
            return SAME_SCALE
        middle = min(0.99, float(self.centre @ vector))  # the mean of its cosines with the sentences
        slope = DEVIATION / self.deviation * (1 - middle) / (1 - MIDDLE)
        return Scale(middle, min(max(slope, _SLOPES[0]), _SLOPES[1]))

    def between(self, vectors: Vector) -> Vector:
        """Return the cosines of vectors [n, dim] to each other, float32 [n, n], on the scale of the vector in whose
        row each stands."""
        cosines: Vector = vectors @ vectors.T
        if not len(self.centre) or not len(vectors):
            return cosines
        scales = [self.scale(vector) for vector in vectors]
        middle, slope = (np.array(each)[:, None] for each in zip(*((s.middle, s.slope) for s in scales), strict=True))
        part = (cosines - middle) / (1 - middle)
        scaled = MIDDLE + (1 - MIDDLE) * (slope * part + np.where(part > 0, 1 - slope, 0) * part * part)
        return np.asarray(scaled, dtype=np.float32)


AS_IT_IS = Calibration()
"""The calibration of the bundled embedder, and of what is no model."""


def measured(embed: Callable[[Sequence[str]], Vector]) -> Calibration:
    """Return an embedder's calibration, from what ``embed`` makes of sentences in several languages. A model that does
    not know a language finds all of it alike: the language whose sentences it tells apart best counts."""
    vectors = iter(embed([text for texts in _UNRELATED for text in texts]))
    groups = [np.stack([next(vectors) for _ in texts]) for texts in _UNRELATED]
    figures = [_figures(group) for group in groups]
    middle, deviation = min(figures)
    if not deviation > _LEAST:
        log.warning("this embedder finds unrelated sentences equally alike: its cosines are taken as they are")
        return AS_IT_IS
    if abs(middle - MIDDLE) < _ALIKE and abs(deviation - DEVIATION) < _ALIKE:
        return AS_IT_IS
    return Calibration(np.mean([group.mean(axis=0) for group in groups], axis=0).astype(np.float32), deviation)


def _figures(group: Vector) -> tuple[float, float]:
    """Return the mean and the deviation of the cosines of a language's sentences to each other."""
    cosines = (group @ group.T)[np.triu_indices(len(group), 1)]
    return float(cosines.mean()), float(cosines.std())


def calibrated(path: Path, name: str, embed: Callable[[Sequence[str]], Vector]) -> Calibration:
    """Return the calibration of the embedder of this name: the one that was written to ``path``, or a new one, which is
    written there where it took its time."""
    key = hashlib.blake2b(repr((name, _UNRELATED)).encode(), digest_size=16).hexdigest()
    known = _read(path, key)
    if known is not None:
        return known
    begin = time.perf_counter()
    found = measured(embed)
    if time.perf_counter() - begin > _SLOW_S:
        _write(path, key, found)
    return found


def _read(path: Path, key: str) -> Calibration | None:
    try:
        kept = json.loads(path.read_text())
        if kept["key"] != key:
            return None
        return Calibration(np.array(kept["centre"], dtype=np.float32), float(kept["deviation"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the embedder's calibration is measured again: %s", error)
        return None


def _write(path: Path, key: str, found: Calibration) -> None:
    fresh = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = {"key": key, "centre": found.centre.tolist(), "deviation": found.deviation}
        fresh.write_text(json.dumps(kept))
        fresh.replace(path)
    except OSError as error:  # it is only a copy
        log.warning("the embedder's calibration is not kept: %s", error)
