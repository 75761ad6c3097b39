from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.prediction.advice import Costs, advise, summary


def costs(load_bytes_s: float = 1e9, repaired: float = 0.15) -> Costs:
    """A millisecond a token, and a thousandth of that for each token before it."""
    return Costs(lambda n, behind: n * (1e-3 + 1e-6 * behind), load_bytes_s, 46_080, repaired)


def test_what_is_used_pays_and_what_is_not_does_not() -> None:
    found = {a.memory_id: a for a in advise({"a": 100, "b": 100}, {"a": 0.2}, frozenset({"b"}), costs(), 50)}
    used, unused = found["a"], found["b"]
    assert used.compute_s == pytest.approx(0.105)
    assert used.saved_s == pytest.approx(0.105 * 0.85 - 100 * 46_080 / 1e9)
    assert used.break_even_uses == pytest.approx(4 * 0.105 / used.saved_s, rel=0.01)
    assert used.expected_uses == 20
    assert (used.verdict, used.activated) == ("worth it", False)
    assert unused.verdict.startswith("not worth it: too few")
    assert unused.activated
    assert summary(list(found.values())).startswith("1 of 2 memories are worth their 4.6 MB")


def test_on_a_slow_drive_nothing_pays() -> None:
    found = advise({"a": 100}, {"a": 1.0}, frozenset(), costs(load_bytes_s=1e6), 0)
    assert found[0].break_even_uses is None
    assert found[0].verdict == "not worth it: loading takes as long as computing"
    assert summary(found).startswith("Not worth it")
    assert summary([]) == "There is nothing in this cube."


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 4000), max_size=20), st.floats(0, 1), st.floats(1e5, 1e11))
def test_what_saves_most_comes_first(tokens: dict[str, int], rate: float, speed: float) -> None:
    found = advise(tokens, dict.fromkeys(tokens, rate), frozenset(), costs(speed), 100)
    gains = [advice.saved_s * advice.expected_uses for advice in found]
    assert gains == sorted(gains, reverse=True)
    assert {advice.memory_id for advice in found} == set(tokens)
    for advice in found:
        worth = advice.verdict == "worth it"
        assert worth == (advice.break_even_uses is not None and advice.expected_uses >= advice.break_even_uses - 0.01)
