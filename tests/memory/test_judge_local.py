"""The local judge: which of two plain statements takes the place of the other, and what it reads of them."""

from __future__ import annotations

import numpy as np
import pytest

from memory import FolderEmbedder, HashEmbedder
from memory.judge.base import Older, Statement
from memory.judge.local import ANCHOR, LocalJudge
from memory.judge.traits import traits_of

DAY_S = 86_400.0
REPLACED = [
    ("I live in Tartu.", "I live in Riga."),
    ("I live in Tartu.", "I moved to Riga."),
    ("My boss is Sigrid.", "My boss is Anders."),
    ("My phone number is 555 0131.", "My phone number is 555 0178."),
    ("I work at Initrode.", "I work at Vandelay."),
    ("I love tea.", "I hate tea."),
    ("My favourite colour is red.", "My favourite colour is blue."),
    ("I'm 41.", "I'm 42."),
    ("I'm vegetarian.", "I'm vegan."),
    ("I work as a baker.", "I quit my job."),
    ("The red bicycle costs 300 euros.", "The red bicycle costs 200 euros."),
    ("The meeting is on Wednesday.", "The meeting was moved to Friday."),
]
KEPT = [
    ("I live in Tartu.", "We moved to GraphQL."),
    ("I live in Tartu.", "I'm in Riga today."),
    ("I live in Tartu.", "I used to live in Riga."),
    ("I live in Tartu.", "I no longer live in Riga."),
    ("I live in Tartu.", "My sister lives in Riga."),
    ("I work at Initrode.", "I work for nine hours on Mondays."),
    ("I work as a nurse.", "I work at Lakeside Hospital."),
    ("My cat is called Pixel.", "My cat is ill today."),
    ("My boss is Sigrid.", "My boss is on holiday until Monday."),
    ("My team is Atlas.", "My team is behind schedule."),
    ("I love it when it snows.", "I hate it when trains are late."),
    ("I love jazz.", "My brother thinks I hate jazz."),
    ("I hate opera.", "I never said I love opera."),
    ("Mia lives in Rome.", "I no longer live in Rome."),
    ("My phone number is 555 0131.", "Nora's phone number is 555 0178."),
    ("I have a dog.", "I have a cat."),
    ("I'm allergic to nuts.", "I'm allergic to cats."),
    ("Kim beat Lou at darts.", "Lou beat Kim at darts."),
    ("On Mondays I teach yoga at the centre.", "On Thursdays I teach yoga at the centre."),
    ("The parcel number 5 lies in room 7.", "The parcel number 6 lies in room 8."),
    ("Locker 12 holds the red ball.", "Locker 14 holds the red ball."),
    ("The viewing is on Tuesday at 5.", "yes that's right, Tuesday at 5"),
]


def relation(embedder: FolderEmbedder, old: str, new: str, days: float = 40.0) -> str:
    judge = LocalJudge.for_embedder(lambda text: embedder.embed([text])[0])
    vectors = embedder.embed([f"User: {old}", f"User: {new}"])
    older = Older(Statement(old, 0.0, "User", vectors[0]))
    (verdict,) = judge.judge(Statement(new, days * DAY_S, "User", vectors[1]), [older])
    assert verdict.judge == "local"
    assert 0.0 <= verdict.confidence <= 1.0
    return verdict.relation


@pytest.mark.parametrize(("old", "new"), REPLACED)
def test_what_changed_is_retired(minilm: FolderEmbedder, old: str, new: str) -> None:
    assert relation(minilm, old, new) in ("update", "end")


@pytest.mark.parametrize(("old", "new"), KEPT)
def test_what_did_not_is_kept(minilm: FolderEmbedder, old: str, new: str) -> None:
    assert relation(minilm, old, new) == "unrelated"


def test_what_has_happened_stays(minilm: FolderEmbedder) -> None:
    judge = LocalJudge(reads_vectors=False)
    old = Statement("I ran a marathon yesterday.", 0.0, "User", happened=True)
    for said in ("I ran a marathon yesterday, in 3:59.", "I run marathons now."):
        (verdict,) = judge.judge(Statement(said, 30 * DAY_S, "User"), [Older(old)])
        assert not verdict.retires


def test_it_knows_whose_vectors_it_was_trained_on(minilm: FolderEmbedder) -> None:
    assert LocalJudge.for_embedder(lambda text: minilm.embed([text])[0]).reads_vectors
    assert not LocalJudge.for_embedder(lambda text: HashEmbedder().embed([text])[0]).reads_vectors
    assert not LocalJudge.for_embedder(lambda text: np.ones(384, np.float32) / np.float32(384**0.5)).reads_vectors
    assert ANCHOR


def test_no_older_statement_no_verdict() -> None:
    assert LocalJudge(reads_vectors=False).judge(Statement("I live in Tartu.", 0.0), []) == []


def test_traits_leave_resolved_dates_aside() -> None:
    said = traits_of("I moved to Riga last week (week of 2026-11-16).")
    assert not said.numbers
    assert said.slot == "|home"
    assert traits_of("My rent is 840 euros.").numbers == {("840", "euros")}
    assert traits_of("Ich wohne jetzt mit meiner Frau in Jena.").foreign
    assert not traits_of("I live in Jena now.").foreign
