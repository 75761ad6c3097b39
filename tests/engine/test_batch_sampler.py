"""Choosing on the device chooses as the host does, and waits for nothing."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base import Sampling
from engine.transformers.batch_sampler import UNCHOSEN, choose_tokens
from engine.transformers.choosing import Asked, OnDevice, OnHost
from engine.transformers.sampler import Sampler
from engine.vocabulary import vocabulary_of
from tests.engine.counting import META, Launches
from tests.tiny import tiny_tokenizer

N = 200
VOCABULARY = 12


class Spied(Sampler):
    """A sampler whose chance is set, and which says what it would have drawn from."""

    chance = 0.5
    weights = torch.empty(0)
    rank = 0

    def uniform(self) -> float:
        return self.chance

    def _multinomial(self, weights: torch.Tensor) -> int:
        self.weights = weights
        return self.rank

    def distribution(self, logits: torch.Tensor) -> dict[int, float]:
        """The probability of each token, as the host draws it."""
        if self.sampling.temperature == 0.0:
            return {self.choose(logits): 1.0}
        self.choose(logits)
        found = {}
        weights = self.weights / self.weights.sum()
        for self.rank in range(len(weights)):
            token = self.choose(logits)
            found[token] = float(weights[self.rank])
        return found


def spied(observed: tuple[int, ...] = (), prompt: tuple[int, ...] = (0, 3), **sampling: object) -> Spied:
    sampler = Spied(Sampling(**sampling), 0, prompt, frozenset({5}))  # type: ignore[arg-type]
    for token in observed:
        sampler.observe(token)
    return sampler


SETTINGS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.5]),
        "top_k": st.sampled_from([0, 1, 3, 7, 50]),
        "top_p": st.sampled_from([1.0, 0.9, 0.5, 1e-6]),
        "min_p": st.sampled_from([0.0, 0.05, 0.6]),
        "presence_penalty": st.sampled_from([0.0, 1.5, -1.0]),
        "frequency_penalty": st.sampled_from([0.0, 0.7]),
        "repetition_penalty": st.sampled_from([1.0, 1.8, 0.5]),
        "logit_bias": st.dictionaries(st.integers(0, VOCABULARY - 1), st.sampled_from([-3.0, 2.0, -100.0]), max_size=3),
        "min_tokens": st.sampled_from([0, 4]),
        "observed": st.lists(st.integers(0, VOCABULARY - 1), max_size=6).map(tuple),
    }
)


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(SETTINGS, min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_every_row_has_the_distribution_of_the_host(rows: list[dict[str, object]], seed: int) -> None:
    """The chances are a grid from 0 to 1, so that frequencies are probabilities up to one step of it."""
    logits = torch.randn(len(rows), VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2
    before = logits.clone()
    samplers = [spied(**row) for row in rows]  # type: ignore[arg-type]
    counts: list[Counter[int]] = [Counter() for _ in rows]
    for step in range(N):
        for sampler in samplers:
            sampler.chance = (step + 0.5) / N
        for count, token in zip(counts, choose_tokens(samplers, logits).tolist(), strict=True):
            count[token] += 1
    assert torch.equal(logits, before)
    for sampler, row, count in zip(samplers, logits, counts, strict=True):
        expected = sampler.distribution(row)
        for token in range(VOCABULARY):
            assert abs(count[token] - N * expected.get(token, 0.0)) <= 1.5, (token, count, expected)
            assert expected.get(token, 0.0) > 0 or not count[token]


def drawn(samplers: list[Sampler], logits: torch.Tensor) -> list[int]:
    """A token a row, which the samplers take in."""
    tokens: list[int] = choose_tokens(samplers, logits).tolist()
    for sampler, token in zip(samplers, tokens, strict=True):
        sampler.observe(token)
    return tokens


def test_a_seed_gives_the_same_tokens_whatever_else_is_in_the_batch() -> None:
    logits = torch.randn(5, 3000, generator=torch.Generator().manual_seed(0))
    alone = Sampler(Sampling(seed=3, top_k=40), 0, (), frozenset())
    tokens = [drawn([alone], logits[:1])[0] for _ in range(20)]
    among = Sampler(Sampling(seed=3, top_k=40), 0, (), frozenset())
    others = [Sampler(Sampling(top_p=0.5 + 0.1 * i), i, (), frozenset()) for i in range(4)]
    again = [drawn([others[0], among, *others[1:]], logits[[1, 0, 2, 3, 4]])[1] for _ in range(20)]
    assert again == tokens
    assert len(set(tokens)) > 5


def test_a_draw_that_is_made_once_more_gives_the_same_token() -> None:
    """As when the device was out of memory in the middle of the first."""
    logits = torch.randn(1, 3000, generator=torch.Generator().manual_seed(0))
    once, twice = (Sampler(Sampling(seed=3), 0, (), frozenset()) for _ in range(2))
    for _ in range(5):
        given_up = choose_tokens([twice], logits).tolist()
        assert drawn([once], logits) == drawn([twice], logits) == given_up


def test_rows_that_cannot_be_drawn_from_are_marked_and_the_others_are_not() -> None:
    logits = torch.zeros(4, VOCABULARY)
    logits[1, 3] = logits[2, 4] = torch.nan
    found = choose_tokens([spied(), spied(), spied(top_k=3, top_p=0.5), spied(top_k=2)], logits).tolist()
    assert found[1:3] == [UNCHOSEN, UNCHOSEN]
    assert UNCHOSEN not in (found[0], found[3])


def test_a_weight_of_zero_is_never_chosen_whatever_the_sums_say() -> None:
    logits = torch.full((1, VOCABULARY), -torch.inf)
    logits[0, 4] = 0.0
    for chance in (0.0, 1.0 - 1e-16, 1.0):
        sampler = spied()
        sampler.chance = chance
        assert choose_tokens([sampler], logits).tolist() == [4]


TINY = st.sampled_from([5e-324, 1e-310, 1e-38, 1e-20, 1e-5, 0.5, 1.0])


@settings(deadline=None, max_examples=60)
@given(
    temperature=TINY,
    repetition_penalty=TINY | st.just(10.0),
    min_p=TINY | st.just(0.0),
    top_p=TINY,
    top_k=st.integers(0, 6),
    penalty=st.sampled_from([-2.0, 0.0, 2.0]),
)
def test_settings_at_their_ends_still_choose_a_token(penalty: float, **sampling: float | int) -> None:
    one = Sampler(
        Sampling(presence_penalty=penalty, frequency_penalty=penalty, **sampling),  # type: ignore[arg-type]
        0, (0, 1, 4), frozenset({5}),
    )  # fmt: skip
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -8.0]])
    for _ in range(3):
        token = int(choose_tokens([one], logits))
        assert 0 <= token < 6
        one.observe(token)


@pytest.mark.parametrize("temperature", [0.0, 1e-6])
def test_both_choosers_give_the_same_tokens_and_log_probabilities(temperature: float) -> None:
    logits = torch.randn(3, 258, generator=torch.Generator().manual_seed(1))
    vocabulary = vocabulary_of(tiny_tokenizer())

    def of(**sampling: object) -> Sampler:
        return Sampler(Sampling(**sampling), 0, (), frozenset())  # type: ignore[arg-type]

    asked = [
        Asked(of(temperature=temperature), 0, None),
        Asked(of(temperature=temperature), 0, 3),  # a second choice of the same request
        Asked(of(temperature=temperature, logit_bias={7: 100.0}), 1, 0),
        Asked(of(top_k=1), 2, 5),
    ]
    host, device = OnHost(asked, logits, vocabulary), OnDevice(asked, logits, vocabulary)
    for index in range(len(asked)):
        (token, theirs), (ours_token, ours) = host.take(index), device.take(index)
        assert ours_token == token
        if theirs is None:
            assert ours is None
            continue
        assert ours is not None
        assert [t.token_id for t in (ours, *ours.top)] == [t.token_id for t in (theirs, *theirs.top)]
        assert [t.logprob for t in (ours, *ours.top)] == pytest.approx([t.logprob for t in (theirs, *theirs.top)])


def test_what_cannot_be_drawn_from_is_refused_when_it_is_taken() -> None:
    logits = torch.full((2, 258), torch.nan)
    logits[1] = 0.0
    found = OnDevice([Asked(spied(), 0, 1), Asked(spied(), 1, 1)], logits, vocabulary_of(tiny_tokenizer()))
    with pytest.raises(RuntimeError, match="not a number"):
        found.take(0)
    assert found.take(1)[1] is not None


def test_the_host_waits_for_nothing_but_the_ids() -> None:
    everything = {
        "top_k": 40, "top_p": 0.9, "min_p": 0.1, "presence_penalty": 1.0, "repetition_penalty": 1.5,
        "logit_bias": {3: 1.0}, "min_tokens": 3,
    }  # fmt: skip
    asked = [Asked(spied((3, 4), **everything), 0, 5), Asked(spied(temperature=0.0), 1, None), Asked(spied(), 1, 2)]  # type: ignore[arg-type]
    chooser = object.__new__(OnDevice)
    chooser._asked = asked
    with Launches() as found:
        ids = chooser._choose(torch.empty(2, 152_000, device=META))
    assert ids.shape == (3, 12)
    assert found.kernels > 10
    assert not found.waits
