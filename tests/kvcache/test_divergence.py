from __future__ import annotations

import math

import pytest
import torch

from kvcache.divergence import divergence


def test_equal_logits_do_not_diverge_and_others_do_by_what_one_can_compute() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert divergence(logits, logits + 5.0) == (pytest.approx(0.0, abs=1e-12), 1.0)
    even, sure = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3.0)]])
    assert divergence(even, sure) == (pytest.approx(0.5 * math.log(2.0) + 0.5 * math.log(2.0 / 3.0)), 0.0)


@pytest.mark.parametrize("rows", [1, 32])
def test_logits_of_other_tokens_are_refused(rows: int) -> None:
    with pytest.raises(ValueError, match="not of the same tokens"):
        divergence(torch.zeros(16, 5), torch.zeros(rows, 5))
