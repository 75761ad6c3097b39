from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.transformers.text import TextStream
from tests.tiny import tiny_tokenizer


def stream(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    tokenizer = tiny_tokenizer()
    out = TextStream(tokenizer, stop)
    shown = []
    for token in tokenizer.encode(text, add_special_tokens=False):
        shown.append(out.push(token))
        if out.stopped:
            break
    return shown, out


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
def test_the_pieces_are_the_text(text: str) -> None:
    shown, out = stream(text)
    assert "".join(shown) + out.flush() == text


def test_half_a_character_is_never_shown() -> None:
    shown, _ = stream("é🦊")
    assert [piece for piece in shown if piece] == ["é", "🦊"]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two three", ("two",), "one "),
        ("aaab", ("aab",), "a"),
        ("hello", ("lo there",), "hello"),
        ("x END y", ("END", "x END"), ""),
        ("ab", ("",), "ab"),
    ],
)
def test_stop_strings_are_not_shown(text: str, stop: tuple[str, ...], expected: str) -> None:
    shown, out = stream(text, stop)
    assert "".join(shown) + out.flush() == expected


@settings(deadline=None)
@given(st.text(alphabet="ab", max_size=20), st.text(alphabet="ab", min_size=1, max_size=4))
def test_a_stop_string_is_found_wherever_it_is(text: str, stop: str) -> None:
    shown, out = stream(text, (stop,))
    assert "".join(shown) + out.flush() == text.partition(stop)[0]
    assert out.stopped == (stop in text)


def test_what_could_begin_a_stop_string_is_held_back() -> None:
    shown, out = stream("so far E", ("END",))
    assert "".join(shown) == "so far "
    assert out.flush() == "E"


def test_special_tokens_are_not_shown() -> None:
    shown, _ = stream("a<|im_end|>b")
    assert "".join(shown) == "ab"
