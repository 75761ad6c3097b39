"""Sampling, as vLLM takes it."""

from __future__ import annotations

from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from engine.base import Sampling, Structured
from engine.errors import InvalidRequest
from engine.vllm.plan import RequestPlan


def sampling_params(sampling: Sampling, n: int, plan: RequestPlan) -> SamplingParams:
    """Translate to vLLM's parameters. Raises ``InvalidRequest`` for what vLLM refuses."""
    try:
        return _as_vllm_takes_it(sampling, n, plan)
    except ValueError as error:
        raise InvalidRequest(str(error)) from error


def _as_vllm_takes_it(sampling: Sampling, n: int, plan: RequestPlan) -> SamplingParams:
    # vLLM refuses several choices of the likeliest tokens, but not of one token that there is to choose from.
    alike = n > 1 and sampling.temperature == 0.0
    return SamplingParams(
        n=n,
        max_tokens=max(1, sampling.max_tokens),  # it chooses one at least
        min_tokens=sampling.min_tokens if sampling.max_tokens else 0,
        temperature=1.0 if alike else sampling.temperature,
        top_p=sampling.top_p,
        top_k=1 if alike else sampling.top_k,
        min_p=sampling.min_p,
        seed=sampling.seed,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        logit_bias=sampling.logit_bias or None,
        stop=list(sampling.stop),
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=sampling.ignore_eos,
        logprobs=sampling.logprobs,
        structured_outputs=_structured(sampling.structured),
        output_kind=RequestOutputKind.DELTA,
        extra_args={"kv_transfer_params": plan.as_params()},
    )


def _structured(wanted: Structured | None) -> StructuredOutputsParams | None:
    if wanted is None:
        return None
    if wanted.schema is None:
        return StructuredOutputsParams(json_object=True)
    return StructuredOutputsParams(json=wanted.schema)
