"""Train the local judge's weights: ``python -m tools.train_judge [--bank FOLDER] [--check FILE]``.

Reads the bank of scenarios (``benchmarks/data/updates``), of which the held-out part is left for measuring, makes pairs
of an older and a new statement of them, trains two probes over the bundled embedder's vectors and a forest over all
features, and writes ``memory/judge/weights.safetensors``. Needs scikit-learn, which is no dependency of the project.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from benchmarks.data.updates.bank import Split, load_background, load_bank
from benchmarks.data.updates.cases import Case, Line
from benchmarks.data.updates.generate import Choice, generate
from memory import FolderEmbedder
from memory.judge.local import ANCHOR
from memory.judge.pairs import NAMES, Setting, features
from memory.judge.traits import Traits, traits_of
from server.assets import bundled_embedder_folder

OUTPUT = Path("memory/judge/weights.safetensors")
FOLDS = 5
_BY_VECTOR = 8
_DAY_S = 86_400.0
# So many pairs of statements that have nothing to do with each other are enough for a linear probe.
_PROBE_PAIRS = 6_000
_KIN = "sister brother mum dad wife husband son daughter colleague boss neighbour friend cousin uncle aunt".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
Floats = npt.NDArray[np.float32]


@cache
def _traits(text: str) -> Traits:
    return traits_of(text)


@dataclass(frozen=True)
class Pair:
    """One pair with its label; ``group`` is the scenario's name, for folds."""

    old: str
    new: str
    setting: Setting
    retired: bool
    english: bool
    group: str


class Texts:
    """Vectors of texts as memories have them, each embedded once."""

    def __init__(self) -> None:
        self._embedder = FolderEmbedder(bundled_embedder_folder())
        self._known: dict[str, Floats] = {}

    def add(self, texts: Sequence[str]) -> None:
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if missing:
            vectors = self._embedder.embed([f"User: {text}" for text in missing])
            self._known.update(zip(missing, vectors, strict=True))

    def of(self, text: str) -> Floats:
        return self._known[text]

    def anchor(self) -> Floats:
        return np.asarray(self._embedder.embed([ANCHOR])[0], dtype=np.float32)


def pairs_of(cases: Sequence[Case], texts: Texts, rng: random.Random) -> list[Pair]:
    """Return the pairs that a judge would be asked for: the message against what was said before, and each earlier
    message against those before it where the labels say what must hold."""
    texts.add([line.content for case in cases for line in (*case.earlier, case.message)])
    found = [pair for case in cases for pair in _of_case(case, texts)]
    # How soon something is said after something else tells nothing of what it means.
    soon = [replace(pair, setting=replace(pair.setting, days=rng.random() ** 4, previous=True)) for pair in found]
    return found + rng.sample(soon, len(soon) // 2) + _unrelated(cases, texts, rng)


def _of_case(case: Case, texts: Texts) -> Iterator[Pair]:
    lines = [*case.earlier, case.message]
    for i in range(1, len(lines)):
        last = i == len(lines) - 1
        for j, setting in _candidates(lines, i, texts):
            text = lines[j].content
            out = _holds(text, case.must_not_be_active)
            if out and (not last or case.kind == "history") and not _is_the_one(lines, j, i, texts):
                continue  # what retired it is not known
            if not last and not out and not _holds(text, case.must_stay_active):
                continue
            retired = out and (last or case.kind == "history")
            yield Pair(text, lines[i].content, setting, retired, case.lang == "en", case.id[:10])


def _is_the_one(lines: Sequence[Line], old: int, new: int, texts: Texts) -> bool:
    """Tell if, of all that was said after a statement, this is by far the nearest to it."""
    cosines = {k: float(texts.of(lines[k].content) @ texts.of(lines[old].content)) for k in range(old + 1, len(lines))}
    others = [cosine for k, cosine in cosines.items() if k != new]
    return cosines[new] > 0.4 and cosines[new] > max(others, default=0.0) + 0.05


def _candidates(lines: Sequence[Line], new: int, texts: Texts) -> list[tuple[int, Setting]]:
    vector, traits = texts.of(lines[new].content), _traits(lines[new].content)
    cosines = [float(texts.of(line.content) @ vector) for line in lines[:new]]
    near = set(sorted(range(new), key=lambda j: -cosines[j])[:_BY_VECTOR])
    for j in range(new):
        old = _traits(lines[j].content)
        if j >= new - 2 or old.names & traits.names or old.stems & traits.stems:
            near.add(j)
    among = sorted(cosines[j] for j in near)
    return [(j, Setting(cosines[j], among, _days(lines[j], lines[new]), j >= new - 2, True)) for j in sorted(near)]


def _days(old: Line, new: Line) -> float:
    if old.time is None or new.time is None:
        return 1.0
    return (datetime.fromisoformat(new.time) - datetime.fromisoformat(old.time)).total_seconds() / _DAY_S


def _holds(text: str, parts: Sequence[str]) -> bool:
    return any(part.lower() in text.lower() for part in parts)


def _unrelated(cases: Sequence[Case], texts: Texts, rng: random.Random) -> list[Pair]:
    """Return pairs of statements of different scenarios, and of the same statement of two people or days."""
    found: list[Pair] = []
    for lang in sorted({case.lang for case in cases}):
        said = sorted({line.content for case in cases if case.lang == lang for line in case.earlier})
        groups = {line.content: case.id[:10] for case in cases if case.lang == lang for line in case.earlier}
        for new in rng.sample(said, min(len(said), 150)):
            olds = rng.sample(said, min(len(said), 9))
            lines = [Line("user", text) for text in olds if groups[text] != groups[new]] + [Line("user", new)]
            for j, setting in _candidates(lines, len(lines) - 1, texts):
                days = rng.uniform(0, 300)
                found.append(Pair(lines[j].content, new, replace(setting, days=days), False, lang == "en", groups[new]))
        if lang == "en":
            found += _exchanged(said, groups, texts, rng)
    return found


def _exchanged(said: Sequence[str], groups: dict[str, str], texts: Texts, rng: random.Random) -> list[Pair]:
    changed = []
    for text in said:
        for words in (_KIN, _DAYS):
            match = re.search(rf"\b({'|'.join(words)})\b", text)
            if match is None or (words is _DAYS and match.start() > 12):
                continue
            other = rng.choice([word for word in words if word != match[1]])
            changed.append((text, text[: match.start()] + other + text[match.end() :]))
    texts.add([new for _, new in changed])
    found = []
    for text, new in changed:
        cosine = float(texts.of(text) @ texts.of(new))
        setting = Setting(cosine, [cosine], rng.choice([0.0, 0.01, 5.0, 100.0]), rng.random() < 0.5, True)
        found.append(Pair(text, new, setting, False, True, groups[text]))
    return found


@dataclass(frozen=True)
class Table:
    """Pairs as numbers: features [n, f], vectors of both [n, dim] each, labels and folds [n]."""

    x: Floats
    old: Floats
    new: Floats
    y: npt.NDArray[np.int64]
    fold: npt.NDArray[np.int64]
    english: npt.NDArray[np.bool_]


def table_of(pairs: Sequence[Pair], texts: Texts) -> Table:
    """Return the numbers of pairs."""
    return Table(
        features((_traits(p.old), _traits(p.new), p.setting) for p in pairs),
        np.stack([texts.of(p.old) for p in pairs]),
        np.stack([texts.of(p.new) for p in pairs]),
        np.array([p.retired for p in pairs], dtype=np.int64),
        np.array([int(p.group[:6], 16) % FOLDS for p in pairs]),
        np.array([p.english for p in pairs]),
    )


@dataclass
class _Probes:
    pair: Any
    new: Any

    def read(self, old: Floats, new: Floats) -> Floats:
        return np.stack([self.pair.decision_function(_both(old, new)), self.new.decision_function(new)], axis=1).astype(
            np.float32
        )


def _both(old: Floats, new: Floats) -> Floats:
    return np.concatenate([old * new, np.abs(old - new)], axis=1)


def train_probes(table: Table, rows: npt.NDArray[np.bool_]) -> _Probes:
    """Train a reading of the pair, and one of the new statement alone: does it announce a change of anything?"""
    from sklearn.linear_model import LogisticRegression

    few = rows & ((table.y == 1) | (np.arange(len(rows)) % max(1, int(rows.sum()) // _PROBE_PAIRS) == 0))
    pair = LogisticRegression(C=4.0, max_iter=200).fit(_both(table.old[few], table.new[few]), table.y[few])
    said: dict[bytes, int] = {}
    for vector, y in zip(table.new[rows], table.y[rows], strict=True):
        said[vector.tobytes()] = max(said.get(vector.tobytes(), 0), int(y))
    vectors = np.stack([np.frombuffer(key, dtype=np.float32) for key in said])
    return _Probes(pair, LogisticRegression(C=25.0, max_iter=400).fit(vectors, np.array(list(said.values()))))


def train_forest(x: Floats, y: npt.NDArray[np.int64], *, seed: int = 0, weight: Any = None) -> Any:
    """Train the forest; a third of it has to do without vectors, as with another embedder."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    forest = HistGradientBoostingClassifier(
        max_iter=250, learning_rate=0.05, max_leaf_nodes=14, min_samples_leaf=12, l2_regularization=3, random_state=seed
    )
    return forest.fit(x, y, sample_weight=weight)


def with_readings(table: Table) -> Floats:
    """Return features and readings, each reading from probes that did not see the pair's scenario."""
    read = np.zeros((len(table.y), 2), dtype=np.float32)
    for k in range(FOLDS):
        test = table.fold == k
        read[test] = train_probes(table, ~test).read(table.old[test], table.new[test])
    return np.concatenate([table.x, read], axis=1)


def without_vectors(x: Floats) -> Floats:
    """Return features as they are with an unknown embedder: no cosines, no readings."""
    blind = x.copy()
    blind[:, [NAMES.index(name) for name in ("cosine", "best_cosine", "below_best")]] = np.nan
    blind[:, [NAMES.index(name) for name in ("rank", "n_near")]] = 0.0
    blind[:, len(NAMES) :] = np.nan
    return blind


def thresholds(x: Floats, table: Table, wrong: tuple[float, float]) -> tuple[float, float]:
    """Return the thresholds for English and for other languages at which, out of fold, a share ``wrong`` of what holds
    is retired."""
    p = np.zeros(len(table.y))
    for k in range(FOLDS):
        test = table.fold == k
        p[test] = train_forest(x[~test], table.y[~test]).predict_proba(x[test])[:, 1]
    found = []
    for english, most in zip((True, False), wrong, strict=True):
        rows = table.english == english
        held = np.sort(p[rows & (table.y == 0)])[::-1]
        for share in (0.25, 0.5, 1.0, 2.0):
            threshold = float(held[int(most * share * len(held))])
            kept = float((p[rows & (table.y == 1)] >= threshold).mean())
            print(f"{'en' if english else 'others'}: wrong {most * share:.4f} at {threshold:.2f}, retired {kept:.2f}")
        found.append(float(held[int(most * len(held))]))
    return found[0], found[1]


def save(forest: Any, probes: _Probes, anchor: Floats, limits: tuple[float, float], path: Path) -> None:
    """Write the weights as ``memory.judge.forest`` reads them."""
    nodes = [tree[0].nodes for tree in forest._predictors]
    roots = np.cumsum([0, *(len(n) for n in nodes[:-1])])
    flat = np.concatenate(nodes)
    offset = np.repeat(roots, [len(n) for n in nodes])
    own = np.arange(len(flat))
    leaf = flat["is_leaf"].astype(bool)
    arrays = {
        "feature": np.where(leaf, 0, flat["feature_idx"]).astype(np.int32),
        "threshold": np.where(leaf, 0.0, flat["num_threshold"]).astype(np.float64),
        "missing_left": flat["missing_go_to_left"].astype(np.uint8),
        "left": np.where(leaf, own, flat["left"].astype(np.int64) + offset).astype(np.int32),
        "right": np.where(leaf, own, flat["right"].astype(np.int64) + offset).astype(np.int32),
        "value": np.where(leaf, flat["value"], 0.0).astype(np.float64),
        "roots": roots.astype(np.int32),
        "baseline": np.array([float(np.ravel(forest._baseline_prediction)[0])]),
        "pair": probes.pair.coef_[0].astype(np.float32),
        "new": probes.new.coef_[0].astype(np.float32),
        "bias": np.array([probes.pair.intercept_[0], probes.new.intercept_[0]], dtype=np.float64),
        "anchor": anchor,
    }
    notes = {
        "depth": str(int(max(n["depth"].max() for n in nodes)) + 1),
        "features": " ".join(NAMES),
        "threshold": f"{limits[0]:.4f}",
        "threshold_other": f"{limits[1]:.4f}",
    }
    save_file(arrays, str(path), notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bank", type=Path, default=Path("benchmarks/data/updates"))
    parser.add_argument("--seeds", type=int, default=2, help="how many times each scenario is used, among other facts")
    parser.add_argument(
        "--wrong",
        type=float,
        nargs=2,
        default=(0.003, 0.0015),
        help="share of what holds that may be retired: en, others",
    )
    parser.add_argument("--all", action="store_true", help="train on the held-out part, too: to see how far data goes")
    args = parser.parse_args()
    bank, facts = load_bank(args.bank), load_background()
    split: Split | None = None if args.all else "train"
    cases = [case for seed in range(args.seeds) for case in generate(bank, facts, Choice(seed=seed, split=split))]
    texts = Texts()
    table = table_of(pairs_of(cases, texts, random.Random(0)), texts)
    print(f"{len(bank)} scenarios, {len(cases)} cases, {len(table.y)} pairs, {int(table.y.sum())} retired")
    x = with_readings(table)
    limits = thresholds(x, table, tuple(args.wrong))
    blind = np.random.default_rng(0).choice(len(x), len(x) // 3, replace=False)
    both, y = np.concatenate([x, without_vectors(x[blind])]), np.concatenate([table.y, table.y[blind]])
    save(train_forest(both, y), train_probes(table, np.ones(len(x), dtype=bool)), texts.anchor(), limits, OUTPUT)
    print(f"written: {OUTPUT}, {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
