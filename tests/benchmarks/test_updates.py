from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.data.updates.bank import HELD_OUT_SHARE, KINDS, holders, load_background, load_bank
from benchmarks.data.updates.cases import Case, CaseError, Line, Wanted, load_cases, write_cases
from benchmarks.data.updates.generate import LANGUAGES, Choice, generate
from benchmarks.suites.updates import InProcess, measure, score
from memory import HashEmbedder, MemoryStore, new_message

BANK = load_bank()
BACKGROUND = load_background()

SCENARIO: dict[str, Any] = {
    "kind": "state_update",
    "lang": "en",
    "earlier": ["I row for Leander.", "My oar is blue."],
    "message": "I row for Molesey now",
    "stays": ["oar is blue"],
    "retired": ["row for Leander"],
    "not_stored": [],
    "queries": [["which club do I row for", "Molesey"]],
    "at": "2025-03-04T18:20:00+02:00",
}


def bank_of(folder: Path, *scenarios: dict[str, Any]) -> Path:
    (folder / "small.jsonl").write_text("".join(json.dumps(scenario) + "\n" for scenario in scenarios))
    return folder


def test_the_bank_has_every_kind_and_nothing_is_there_twice() -> None:
    assert {scenario.kind for scenario in BANK} <= set(KINDS)
    assert len({scenario.digest for scenario in BANK}) == len(BANK)
    assert {scenario.lang for scenario in BANK} <= set(BACKGROUND)


def test_a_split_is_always_the_same_and_has_about_its_share() -> None:
    held_out = [scenario for scenario in BANK if scenario.split == "held-out"]
    assert abs(len(held_out) / len(BANK) - HELD_OUT_SHARE) < 0.1
    assert [scenario.split for scenario in load_bank()] == [scenario.split for scenario in BANK]


def test_a_split_does_not_change_with_a_label(tmp_path: Path) -> None:
    before, *_ = load_bank(bank_of(tmp_path, SCENARIO))
    after, *_ = load_bank(bank_of(tmp_path, {**SCENARIO, "stays": [], "earlier": ["I row for Leander."]}))
    assert (before.digest, before.split) == (after.digest, after.split)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stays": ["row"], "earlier": ["I row for Leander.", "My row of beans."]}, "in 2 earlier messages"),
        ({"retired": ["rowed"]}, "in 0 earlier messages"),
        ({"retired": ["I row for"]}, "in the message as well"),
        ({"not_stored": ["Leander"]}, "not in the message alone"),
        ({"queries": [["which club", "Thames"]]}, "in no message"),
        ({"at": "2025-03-04T18:20:00"}, "no offset"),
        ({"kind": "update"}, "no kind"),
    ],
)
def test_a_label_that_decides_nothing_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(CaseError, match=says) as refused:
        load_bank(bank_of(tmp_path, {**SCENARIO, "message": "Quit", "queries": []}, {**SCENARIO, **change}))
    assert str(refused.value).startswith("small.jsonl:2: ")


def test_the_same_message_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"the same message as small\.jsonl:1"):
        load_bank(bank_of(tmp_path, SCENARIO, SCENARIO))


def test_background_facts_are_one_sentence_each_and_none_is_part_of_another() -> None:
    assert set(BACKGROUND) == set(LANGUAGES)
    for facts in BACKGROUND.values():
        assert len(facts) >= 60
        assert all("\n" not in fact and len(fact) < 100 for fact in facts)
        assert not [(a, b) for a, b in combinations(facts, 2) if a.lower() in b.lower() or b.lower() in a.lower()]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_one_person_may_have_all_background_facts_at_once(tmp_path: Path, lang: str) -> None:
    store = MemoryStore(tmp_path / "memories.sqlite", HashEmbedder())
    try:
        kept = InProcess(store)
        cube = kept.open(lang)
        store.add_messages("bench", cube, [new_message(fact) for fact in BACKGROUND[lang]])
        texts = kept.active(cube)
        assert [fact for fact in BACKGROUND[lang] if holders(texts, fact.rstrip(".。")) != 1] == []
    finally:
        store.close()


def cases_of(choice: Choice) -> list[Case]:
    return generate(BANK, BACKGROUND, choice)


def test_the_same_seed_makes_the_same_cases_and_another_seed_others() -> None:
    assert cases_of(Choice(seed=4)) == cases_of(Choice(seed=4))
    first, second = ({case.message.content: case for case in cases_of(Choice(seed=seed))} for seed in (4, 5))
    assert set(first) == set(second)
    assert first != second


def test_a_scenario_makes_the_same_case_whatever_else_is_in_the_bank() -> None:
    alone = {scenario.message: generate([scenario], BACKGROUND, Choice(seed=2)) for scenario in BANK[:20]}
    for case in cases_of(Choice(seed=2)):
        if case.message.content in alone:
            assert alone[case.message.content] == [case]


def test_splits_share_nothing_and_languages_are_those_asked_for() -> None:
    train, held_out = (cases_of(Choice(split=split)) for split in ("train", "held-out"))
    assert len(train) + len(held_out) == len(BANK)
    assert not {case.message.content for case in train} & {case.message.content for case in held_out}
    assert {case.lang for case in cases_of(Choice(langs=("en",)))} == {"en"}
    with pytest.raises(CaseError, match="no scenario"):
        generate(BANK[:1], BACKGROUND, Choice(langs=("xx",)))


def test_beyond_the_bank_a_scenario_comes_again_among_other_facts() -> None:
    cases = generate(BANK[:3], BACKGROUND, Choice(n=7))
    assert sorted(Counter(case.message.content for case in cases).values()) == [2, 2, 3]
    assert len({case.id for case in cases}) == 7
    again = [case for case in cases if case.message == cases[0].message]
    assert len({case.earlier for case in again}) == len(again)


def test_every_label_is_in_exactly_the_message_that_it_is_about() -> None:
    scenarios = {scenario.message: scenario for scenario in BANK}
    for case in cases_of(Choice(seed=7)):
        scenario = scenarios[case.message.content]
        earlier = [line.content for line in case.earlier]
        texts = [*earlier, case.message.content]
        for part in (*case.must_stay_active, *case.must_not_be_active):
            assert holders(earlier, part) == 1, (case.id, part)
        for part in case.must_not_be_active:
            assert holders(texts, part) == 1, (case.id, part)
        for part in case.must_not_be_stored:
            assert [part.lower() in text.lower() for text in texts] == [False] * len(earlier) + [True], (case.id, part)
        for wanted in case.must_be_found:
            assert holders(texts, wanted.contains) == holders(scenario.texts, wanted.contains) > 0, (case.id, wanted)


def test_the_unrelated_facts_must_all_stay_and_the_others_keep_their_order() -> None:
    scenarios = {scenario.message: scenario for scenario in BANK}
    for case in cases_of(Choice(seed=8)):
        scenario = scenarios[case.message.content]
        own = [line.content for line in case.earlier if line.content in scenario.earlier]
        others = [line.content for line in case.earlier if line.content not in scenario.earlier]
        assert own == list(scenario.earlier)
        assert len(others) >= 3
        assert [part for part in case.must_stay_active if part not in scenario.stays] != []
        assert all(any(part in text for part in case.must_stay_active) for text in others)
        if scenario.kind in ("chat_correction", "coreference") and scenario.earlier:
            assert case.earlier[-1].content == scenario.earlier[-1]


def test_times_go_up_to_the_moment_of_the_message() -> None:
    moments = {scenario.message: scenario.at for scenario in BANK}
    for case in cases_of(Choice(seed=9)):
        times = [datetime.fromisoformat(line.time or "") for line in (*case.earlier, case.message)]
        assert all(earlier < later for earlier, later in pairwise(times)), case.id
        assert times[-1] == moments[case.message.content]


def test_a_file_of_cases_is_read_as_it_was_written(tmp_path: Path) -> None:
    cases = cases_of(Choice(seed=1))
    write_cases(cases, tmp_path / "cases.json")
    assert load_cases(tmp_path / "cases.json") == cases


def _no_time(cases: list[dict[str, Any]]) -> None:
    cases[0]["message"]["time"] = "yesterday"


def _no_labels(cases: list[dict[str, Any]]) -> None:
    del cases[0]["must_stay_active"]


def _no_role(cases: list[dict[str, Any]]) -> None:
    cases[0]["earlier"][0]["role"] = "narrator"


def _twice(cases: list[dict[str, Any]]) -> None:
    cases.append(cases[0])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(_no_time, "case 1"), (_no_labels, "must_stay_active"), (_no_role, "narrator"), (_twice, "the same id")],
)
def test_a_spoiled_file_is_refused_with_the_case(
    tmp_path: Path, spoil: Callable[[list[dict[str, Any]]], None], says: str
) -> None:
    path = tmp_path / "cases.json"
    write_cases(generate(BANK[:2], BACKGROUND, Choice()), path)
    data = json.loads(path.read_text())
    spoil(data)
    path.write_text(json.dumps(data))
    with pytest.raises(CaseError, match=says):
        load_cases(path)
    path.write_text("{}")
    with pytest.raises(CaseError, match="no list"):
        load_cases(path)


@dataclass
class Scripted:
    """Memories that keep every message but those that are named, and find the newest ones."""

    forgets: frozenset[str] = frozenset()
    opened: list[str] = field(default_factory=list)
    said: dict[str, list[Line]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def open(self, name: str) -> str:
        self.opened.append(name)
        self.said[name] = []
        return name

    def add(self, cube: str, session: str, line: Line) -> None:
        assert cube == session
        self.said[cube].append(line)

    def active(self, cube: str) -> list[str]:
        return [f"User: {line.content}" for line in self.said[cube] if line.content not in self.forgets]

    def search(self, cube: str, query: str, at: str | None) -> list[str]:
        self.asked.append((query, at))
        return self.active(cube)[:-4:-1]


def line(text: str) -> Line:
    return Line("user", text, "2025-01-01T10:00:00+01:00")


SOLD = Case(
    id="sold",
    lang="en",
    kind="state_update",
    earlier=(line("I drive a Golf."), line("My oar is blue."), line("I hum."), line("I whistle.")),
    message=line("Sold it, I drive a van now"),
    must_stay_active=("OAR is blue", "I hum"),
    must_not_be_active=("drive a golf",),
    must_be_found=(Wanted("what do I drive", "a VAN"), Wanted("my oar", "blue")),
    must_not_be_stored=(),
)
JOKE = Case(
    id="joke",
    lang="de",
    kind="not_asserted",
    earlier=(line("Ich segle."),),
    message=line("Witz: ich bin der Papst"),
    must_stay_active=("segle",),
    must_not_be_active=(),
    must_be_found=(),
    must_not_be_stored=("der Papst",),
)


def test_a_store_that_keeps_everything_gets_what_it_should() -> None:
    kept = Scripted()
    result = measure(kept, [SOLD, JOKE])
    everything = {"stays": [3, 3], "retired": [0, 1], "found": [1, 2], "not_stored": [0, 1]}
    assert result["totals"] == {
        "all": everything,
        "state_update": {"stays": [2, 2], "retired": [0, 1], "found": [1, 2]},
        "not_asserted": {"stays": [1, 1], "not_stored": [0, 1]},
        "lang:en": {"stays": [2, 2], "retired": [0, 1], "found": [1, 2]},
        "lang:de": {"stays": [1, 1], "not_stored": [0, 1]},
        "lang:others": {"stays": [1, 1], "not_stored": [0, 1]},
    }
    assert set(map(tuple, result["whole"].values())) == {(0, 1), (0, 2)}
    assert [(fault["id"], fault["what"], fault["check"]) for fault in result["failures"]] == [
        ("sold", "retired", "drive a golf"),
        ("sold", "found", {"query": "my oar", "contains": "blue"}),
        ("joke", "not_stored", "der Papst"),
    ]
    assert kept.opened == ["sold", "joke"]
    assert [text.content for text in kept.said["sold"]] == [
        *(said.content for said in SOLD.earlier),
        SOLD.message.content,
    ]
    assert kept.asked[0] == ("what do I drive", "2025-01-01T10:00:00+01:00")


def test_a_store_that_forgets_the_right_things_is_right_throughout() -> None:
    kept = Scripted(frozenset({"I drive a Golf.", "I hum.", "I whistle.", "Witz: ich bin der Papst"}))
    result = measure(kept, [SOLD, JOKE])
    assert result["totals"]["all"] == {"stays": [2, 3], "retired": [1, 1], "found": [2, 2], "not_stored": [1, 1]}
    assert result["whole"]["all"] == [1, 2]
    assert result["whole"]["lang:de"] == [1, 1]


def test_a_real_store_keeps_and_finds_what_was_said(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "memories.sqlite", HashEmbedder())
    try:
        kept = InProcess(store)
        checks = score(SOLD, kept)
        assert {check.of: check.good for check in checks if check.what == "stays"} == {
            "OAR is blue": True,
            "I hum": True,
        }
        assert [check.good for check in checks if check.what == "found"] == [True, True]
        assert kept.messages == 5
        cube = kept.open("many")
        for number in range(130):
            store.add("bench", cube, f"Locker {number} is Ann's.")
        assert len(kept.active(cube)) == 130
    finally:
        store.close()


def test_generating_and_measuring_from_the_command_line(tmp_path: Path) -> None:
    cases, out = tmp_path / "cases.json", tmp_path / "result.json"
    options = ["--lang", "en", "--split", "train", "--seed", "3", "--n", "4"]
    done = CliRunner().invoke(app, ["updates", "--generate", str(cases), *options])
    assert done.exit_code == 0, done.output
    written = load_cases(cases)
    assert written == cases_of(Choice(3, 4, ("en",), "train"))
    options = ["--embedder", "hash", "--failures", "2", "--json", str(out)]
    done = CliRunner().invoke(app, ["updates", "--data", str(cases), *options])
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert (result["cases"], result["data"]) == (4, "cases.json")
    assert result["totals"]["all"]["stays"][1] == sum(len(case.must_stay_active) for case in written)
    assert result["whole"]["lang:en"][1] == 4
    assert result["messages"] == sum(len(case.earlier) + 1 for case in written)
    assert len([shown for shown in done.output.splitlines() if shown.startswith("{")]) == min(
        2, len(result["failures"])
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--split", "test"], "splits are"), (["--lang", "xx"], "no language"), (["--data", "bad.json"], "list of cases")],
)
def test_a_wrong_option_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("[]")
    done = CliRunner().invoke(app, ["updates", *options], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert says in done.output
