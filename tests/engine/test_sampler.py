from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base import Sampling
from engine.transformers.sampler import Sampler

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -8.0])


def sampler(prompt: tuple[int, ...] = (), index: int = 0, **settings: object) -> Sampler:
    return Sampler(Sampling(**settings), index, prompt, frozenset({5}))  # type: ignore[arg-type]


def draws(n: int = 300, logits: torch.Tensor = LOGITS, **settings: object) -> Counter[int]:
    one = sampler(seed=1, **settings)  # type: ignore[arg-type]
    return Counter(one.choose(logits) for _ in range(n))


def test_temperature_zero_takes_the_likeliest() -> None:
    assert set(draws(temperature=0.0)) == {0}
    assert sampler(temperature=0.0).greedy


@settings(deadline=None, max_examples=40)
@given(top_k=st.integers(1, 6))
def test_top_k_leaves_k(top_k: int) -> None:
    assert set(draws(top_k=top_k, temperature=3.0, n=80)) <= set(range(top_k))


@settings(deadline=None, max_examples=40)
@given(top_p=st.floats(0.01, 0.999), seed=st.integers(0, 1000))
def test_top_p_draws_from_the_smallest_set_that_reaches_it(top_p: float, seed: int) -> None:
    logits = torch.randn(3000, generator=torch.Generator().manual_seed(seed)) * 0.3
    probabilities, ids = torch.softmax(logits, -1).sort(descending=True)
    reached = int((probabilities.cumsum(0) - probabilities < top_p).sum())
    allowed = set(ids[:reached].tolist())
    assert set(draws(20, logits, top_p=top_p)) <= allowed


def test_a_tiny_top_p_is_greedy_and_never_fails() -> None:
    assert set(draws(20, top_p=1e-9)) == {0}


def test_min_p_drops_the_unlikely() -> None:
    assert set(draws(min_p=0.3)) <= {0, 1}


def test_the_frequencies_are_the_softmax() -> None:
    counts = draws(4000)
    expected = torch.softmax(LOGITS, -1) * 4000
    assert abs(counts[0] - float(expected[0])) < 200
    assert abs(counts[1] - float(expected[1])) < 200


def test_a_seed_repeats_and_choices_differ() -> None:
    one = [sampler(seed=7).choose(LOGITS) for _ in range(3)]
    assert len(set(one)) == 1
    first, second = sampler(seed=7), sampler(seed=7, index=1)
    assert [first.choose(LOGITS) for _ in range(20)] != [second.choose(LOGITS) for _ in range(20)]


def test_penalties_count_what_was_generated() -> None:
    one = sampler(temperature=0.0, presence_penalty=1.5)
    assert one.choose(LOGITS) == 0
    one.observe(0)
    assert one.choose(LOGITS) == 1
    two = sampler(temperature=0.0, frequency_penalty=0.6)
    two.observe(0)
    assert two.choose(LOGITS) == 0
    two.observe(0)
    assert two.choose(LOGITS) == 1


def test_the_repetition_penalty_counts_the_prompt_too() -> None:
    assert sampler((0,), temperature=0.0, repetition_penalty=3.0).choose(LOGITS) == 1


def test_logit_bias() -> None:
    assert sampler(temperature=0.0, logit_bias={4: 100.0}).choose(LOGITS) == 4
    assert sampler(temperature=0.0, logit_bias={0: -100.0}).choose(LOGITS) == 1


def test_min_tokens_holds_back_the_end() -> None:
    logits = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 9.0])
    one = sampler(temperature=0.0, min_tokens=1)
    assert one.choose(logits) == 4
    one.observe(4)
    assert one.choose(logits) == 5


def test_the_logits_are_left_as_they_were() -> None:
    before = LOGITS.clone()
    sampler(logit_bias={1: 5.0}, presence_penalty=1.0).choose(LOGITS)
    assert torch.equal(LOGITS, before)


@pytest.mark.parametrize("change", [{"presence_penalty": 0.1}, {"logit_bias": {1: 1.0}}, {"min_tokens": 1}])
def test_changed_logits_are_not_the_greedy_fast_path(change: dict[str, object]) -> None:
    assert not sampler(temperature=0.0, **change).greedy  # type: ignore[arg-type]


TINY = st.sampled_from([5e-324, 1e-310, 1e-38, 1e-20, 1e-5, 0.5, 1.0])


@settings(deadline=None, max_examples=200)
@given(
    temperature=TINY | st.floats(1e-6, 2),
    repetition_penalty=TINY | st.just(10.0),
    min_p=TINY | st.just(0.0),
    top_p=TINY,
    top_k=st.integers(0, 6),
    penalty=st.sampled_from([-2.0, 0.0, 2.0]),
    bias=st.dictionaries(st.integers(0, 5), st.sampled_from([-100.0, 100.0]), max_size=6),
)
def test_settings_at_their_ends_still_choose_a_token(
    penalty: float, bias: dict[int, float], **settings: float | int
) -> None:
    one = sampler((0, 1, 4), presence_penalty=penalty, frequency_penalty=penalty, logit_bias=bias, **settings)  # type: ignore[arg-type]
    for _ in range(3):
        token = one.choose(LOGITS)
        assert 0 <= token < len(LOGITS)
        one.observe(token)
