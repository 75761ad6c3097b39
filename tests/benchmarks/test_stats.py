from __future__ import annotations

import numpy as np
import pytest

from benchmarks.support.stats import quantile_ratio


def test_ratios_of_quantiles_have_intervals_that_cover_them() -> None:
    rng = np.random.default_rng(1)
    theirs = rng.lognormal(0, 0.5, 200)
    median = quantile_ratio((theirs * 1.5 + rng.normal(0, 0.01, 200)).tolist(), theirs.tolist(), 0.5)
    assert median.low <= median.p50 <= median.high
    assert median.p50 == pytest.approx(1.5, abs=0.05)
    assert median.high - median.low < 0.1  # paired: what befalls both does not count
    apart = quantile_ratio(rng.lognormal(0, 0.5, 200).tolist(), theirs.tolist(), 0.99)
    assert apart.low < 1 < apart.high
    assert apart.high - apart.low > 0.3  # of the tail, 200 say little


def test_samples_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="inhomogeneous"):
        quantile_ratio([1.0, 2.0], [1.0], 0.5)
