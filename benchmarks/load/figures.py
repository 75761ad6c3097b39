"""Figures by the names and definitions of ``vllm bench serve``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.load.listening import Outcome


def in_ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def latency_fields(samples_s: Sequence[float], name: str) -> dict[str, Any]:
    """Mean, median, deviation and percentiles in milliseconds, as vLLM names them; None without samples."""
    keys = [f"{statistic}_{name}_ms" for statistic in ("mean", "median", "std", "p95", "p99")]
    if not samples_s:
        return dict.fromkeys(keys)
    p50, p95, p99 = np.percentile(samples_s, (50, 95, 99)).tolist()
    values = (float(np.mean(samples_s)), p50, float(np.std(samples_s)), p95, p99)
    return {key: in_ms(value) for key, value in zip(keys, values, strict=True)}


def metrics(outcomes: Sequence[Outcome], duration_s: float, goals: Mapping[str, float]) -> dict[str, Any]:
    """The figures of some requests of a run that lasted ``duration_s``; rates are a second of the whole run."""
    good = [outcome for outcome in outcomes if outcome.failure is None]
    prompt, output = sum(o.prompt_tokens for o in good), sum(o.completion_tokens for o in good)
    parts = sorted({name for outcome in good for name in outcome.parts_ms})
    return {
        "completed": len(good),
        "failed": len(outcomes) - len(good),
        "failures": dict(Counter(outcome.failure for outcome in outcomes if outcome.failure)),
        "total_input_tokens": prompt,
        "total_output_tokens": output,
        "cached_tokens": sum(o.cached_tokens for o in good),
        "tokens_from": "usage" if all(o.counted for o in good) else "chunks",
        "request_throughput": round(len(good) / duration_s, 4),
        "request_goodput": round(sum(o.meets(goals) for o in good) / duration_s, 4) if goals else None,
        "output_throughput": round(output / duration_s, 3),
        "total_token_throughput": round((prompt + output) / duration_s, 3),
        **latency_fields([o.ttft_s for o in good], "ttft"),
        **latency_fields([s for o in good if (s := o.tpot_s) is not None], "tpot"),
        **latency_fields([gap for o in good for gap in o.gaps_s], "itl"),
        **latency_fields([o.e2el_s for o in good], "e2el"),
        "median_server_timing_ms": {
            name: round(float(np.median([o.parts_ms[name] for o in good if name in o.parts_ms])), 3) for name in parts
        },
    }


def ratios(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The first mode's times by those of each other mode of the same run."""
    first, *others = rows
    for other in others:
        found = {"of": first["mode"], "by": other["mode"]}
        for name in ("median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "median_e2el_ms"):
            found[name] = round(first[name] / other[name], 4) if first[name] and other[name] else None
        yield found
