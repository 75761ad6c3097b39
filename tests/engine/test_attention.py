"""The oracle of the engine: attention over any split into spans, tails and chunks equals a full prefill."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UnsupportedModel
from engine.transformers import LoadedModel, ModelRunner, SequenceKV, Work, prepare
from engine.transformers.attention.kernels.flash import flash, merge
from engine.transformers.attention.probing import weighed
from engine.transformers.attention.ragged import Interrupted
from kvcache import Segment, root_key
from tests.tiny import tiny_model, tiny_network, tiny_tokenizer

KINDS = ["llama", "mistral", "qwen2", "qwen3", "gemma"]


@functools.cache
def model_of(kind: str) -> LoadedModel:
    return tiny_model(kind)


@functools.cache
def oracle(kind: str, tokens: tuple[int, ...]) -> torch.Tensor:
    """Next-token logits by the model's own full prefill."""
    network = tiny_network(kind)
    with torch.inference_mode():
        return network(torch.tensor([tokens])).logits[0, -1]


TOKENS = tuple((i * 61 + 7) % 250 for i in range(40))


def fresh(model: LoadedModel, expected: int = 8) -> SequenceKV:
    return SequenceKV(model.fingerprint.layout, model.device, expected)


def segment_of(model: LoadedModel, kv: SequenceKV, start: int, end: int, parent: str) -> Segment:
    keys, values = kv.copy_range(start, end)
    return Segment.chained(parent, model.fingerprint, start, TOKENS[start:end], keys, values)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25)
@given(cuts=st.sets(st.integers(1, 39), max_size=5))
def test_any_chunking_equals_full_prefill(kind: str, cuts: set[int]) -> None:
    model = model_of(kind)
    runner, kv = ModelRunner(model.model), fresh(model)
    bounds = [0, *sorted(cuts), len(TOKENS)]
    for begin, end in zip(bounds, bounds[1:], strict=False):  # noqa: RUF007
        logits = runner.forward([Work(kv, TOKENS[begin:end])])
    torch.testing.assert_close(logits[0], oracle(kind, TOKENS), atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=40)
@given(cuts=st.sets(st.integers(1, 38), min_size=1, max_size=5), min_span=st.sampled_from([1, 6, 100]))
def test_any_split_into_injected_segments_equals_full_prefill(cuts: set[int], min_span: int) -> None:
    model = model_of("llama")
    runner, source = ModelRunner(model.model), fresh(model)
    runner.forward([Work(source, TOKENS[:39], n_logits=0)])
    bounds = [0, *sorted(cuts)]
    kv, parent = fresh(model), root_key(model.fingerprint)
    for begin, end in zip(bounds, bounds[1:], strict=False):  # noqa: RUF007
        segment = segment_of(model, source, begin, end, parent)
        kv.inject(segment, min_span)
        parent = segment.key
    assert kv.n_tokens == bounds[-1]
    logits = runner.forward([Work(kv, TOKENS[bounds[-1] :])])
    torch.testing.assert_close(logits[0], oracle("llama", TOKENS), atol=1e-4, rtol=1e-4)


def test_a_ragged_batch_gives_each_sequence_its_own_logits() -> None:
    model = model_of("llama")
    runner = ModelRunner(model.model)
    lengths = [1, 7, 40, 23]
    decoding = fresh(model)
    runner.forward([Work(decoding, TOKENS[:12])])
    batch = [Work(fresh(model), TOKENS[:n], n_logits=int(n != 7)) for n in lengths]
    logits = runner.forward([*batch, Work(decoding, TOKENS[12:13])])
    expected = [oracle("llama", TOKENS[:n]) for n in (1, 40, 23, 13)]
    torch.testing.assert_close(logits, torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_a_fork_shares_the_past_and_goes_its_own_way() -> None:
    model = model_of("llama")
    runner, kv = ModelRunner(model.model), fresh(model)
    runner.forward([Work(kv, TOKENS[:10], n_logits=0)])
    fork = kv.fork(4)
    a = runner.forward([Work(kv, TOKENS[10:20])])[0]
    other = (*TOKENS[:10], 99, 98)
    b = runner.forward([Work(fork, other[10:])])[0]
    torch.testing.assert_close(a, oracle("llama", TOKENS[:20]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(b, oracle("llama", other), atol=1e-4, rtol=1e-4)


def test_injected_segments_are_never_written_to() -> None:
    model = model_of("llama")
    runner, kv = ModelRunner(model.model), fresh(model)
    runner.forward([Work(kv, TOKENS[:10], n_logits=0)])
    segment = segment_of(model, kv, 0, 10, root_key(model.fingerprint))
    keys, values = segment.keys.clone(), segment.values.clone()
    for min_span in (1, 100):
        injected = fresh(model)
        injected.inject(segment, min_span)
        for token in TOKENS[10:]:
            runner.forward([Work(injected, (token,))])
    assert torch.equal(segment.keys, keys)
    assert torch.equal(segment.values, values)


def test_a_pass_that_is_given_up_changes_nothing() -> None:
    """It is given up before each of the layers in turn, and then run again."""
    model = model_of("llama")
    runner, kv = ModelRunner(model.model), fresh(model)
    runner.forward([Work(kv, TOKENS[:9])])
    for layer in range(model.fingerprint.layout.layers):
        asked = iter(range(100))
        with pytest.raises(Interrupted):
            runner.forward([Work(kv, TOKENS[9:])], lambda asked=asked, layer=layer: next(asked) == layer)  # type: ignore[misc]
        assert kv.n_tokens == 9
    again = runner.forward([Work(kv, TOKENS[9:])], lambda: False)[0]
    torch.testing.assert_close(again, oracle("llama", TOKENS), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sizes", [(5,), (6, 9)])
def test_attention_within_the_tail_is_the_same_by_every_path(sizes: tuple[int, ...]) -> None:
    """The kernel of this device, and the one that gives its weights."""
    torch.manual_seed(0)
    query = torch.randn(1, 4, 3, 8)
    parts = [(torch.randn(1, 2, n, 8), torch.randn(1, 2, n, 8)) for n in sizes]
    visible = torch.arange(sizes[-1])[None] <= torch.tensor([[0], [2], [4]])
    mask = torch.zeros(visible.shape).masked_fill_(~visible, float("-inf"))
    found = [flash(query, k, v, 0.3) for k, v in parts[:-1]]
    merged = merge([*found, flash(query, *parts[-1], 0.3, mask=mask)])
    written_out, weights = weighed(query, parts, mask, 0.3)
    torch.testing.assert_close(merged, written_out, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 3))
    assert (weights[:, :, 0, -sizes[-1] + 1 :] == 0).all()


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 512}, 2048),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "rope_theta": 5e5,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 256,
            },
            2048,
        ),
    ],
)
def test_static_rope_scalings_are_served(rope: dict[str, float], context: int) -> None:
    assert tiny_model(rope_parameters=rope).context == context


def test_dynamic_rope_is_static_within_the_context() -> None:
    model = tiny_model(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    assert model.context == 2048
    assert model.rotation is not None


def test_longrope_limits_the_context_to_where_it_does_not_switch() -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 4.0,
        "short_factor": [1.0] * 6,
        "long_factor": [4.0] * 6,
        "original_max_position_embeddings": 512,
    }
    model = tiny_model(rope_parameters=rope)
    assert model.context == 512
    assert model.rotation is not None


def test_a_sliding_window_limits_the_context_to_where_it_is_full_attention() -> None:
    assert tiny_model("mistral", sliding_window=64).context == 64


def test_a_longer_context_than_the_model_has_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="2048"):
        prepare(tiny_network(), tiny_tokenizer(), context=4096)
    assert prepare(tiny_network(), tiny_tokenizer(), context=128).context == 128


def test_attention_that_is_not_reproduced_is_found_at_load() -> None:
    """A model whose own attention differs from what the engine computes must not be served."""
    network = tiny_network()
    for layer in network.model.layers:
        layer.self_attn.register_forward_pre_hook(_scale_hidden, with_kwargs=True)
    with pytest.raises(UnsupportedModel, match="not reproduced"):
        prepare(network, tiny_tokenizer())


def _scale_hidden(module, args, kwargs):  # type: ignore[no-untyped-def]
    """Changes what the layer sees when the model runs with its own attention only."""
    if kwargs.get("ragged") is None:
        kwargs["hidden_states"] = kwargs["hidden_states"] * 3.0 + 1.0
    return args, kwargs
