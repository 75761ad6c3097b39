from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvcache import Fingerprint, Layout, Segment, chain_key, root_key
from tests.kvcache.conftest import FINGERPRINT, LAYOUT, ROOT, make_segment
from tests.tiny import tiny_network, tiny_tokenizer

tokens = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20)


@given(tokens, tokens)
def test_chain_key_stands_for_every_token_before(first: list[int], second: list[int]) -> None:
    chained = chain_key(chain_key(ROOT, first), second)
    assert chained == chain_key(chain_key(ROOT, first), second)
    assert chained != chain_key(ROOT, second)
    if first != second:
        assert chained != chain_key(chain_key(ROOT, second), second)


def test_root_key_separates_models_and_tenants() -> None:
    other = replace(FINGERPRINT, weights="other")
    assert len({root_key(FINGERPRINT), root_key(other), root_key(FINGERPRINT, "tenant")}) == 3


@pytest.mark.parametrize("field", ["weights", "config", "tokenizer", "chat_template", "attention", "codec", "format"])
def test_digest_depends_on_every_field(field: str) -> None:
    assert replace(FINGERPRINT, **{field: "changed"}).digest != FINGERPRINT.digest  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"layers": 3}, {"kv_heads": 1}, {"head_dim": 8}, {"dtype": "bfloat16"}])
def test_digest_depends_on_the_layout(change: dict[str, int | str]) -> None:
    assert replace(FINGERPRINT, layout=replace(LAYOUT, **change)).digest != FINGERPRINT.digest  # type: ignore[arg-type]


def test_fingerprint_of_a_model_tells_weights_rope_and_template_apart() -> None:
    tokenizer = tiny_tokenizer()
    same = Fingerprint.of_model(tiny_network(), tokenizer)
    assert Fingerprint.of_model(tiny_network(), tokenizer) == same
    rope = {"rope_type": "default", "rope_theta": 5e5}
    for other in (
        Fingerprint.of_model(tiny_network(seed=1), tokenizer),
        Fingerprint.of_model(tiny_network(rope_parameters=rope), tokenizer),
        Fingerprint.of_model(tiny_network().to(torch.bfloat16), tokenizer),
        Fingerprint.of_model(tiny_network(), tiny_tokenizer("{{ messages }}")),
    ):
        assert other.digest != same.digest


def test_fingerprint_sees_a_small_fine_tuning() -> None:
    network = tiny_network()
    before = Fingerprint.of_model(network)
    with torch.no_grad():
        network.model.layers[1].mlp.down_proj.weight.mul_(1.001)
    assert Fingerprint.of_model(network).digest != before.digest


def test_fingerprint_of_a_folder_is_that_of_its_files(tmp_path) -> None:  # type: ignore[no-untyped-def]
    network = tiny_network()
    network.save_pretrained(tmp_path / "a")
    tiny_network(seed=1).save_pretrained(tmp_path / "b")
    a = Fingerprint.of_model(network, folder=tmp_path / "a")
    assert a == Fingerprint.of_model(network, folder=tmp_path / "a")
    assert a.weights != Fingerprint.of_model(network, folder=tmp_path / "b").weights


def test_bytes_per_token_of_published_models() -> None:
    """Figures of docs: Qwen3-8B has 144 KiB a token in bfloat16, SmolLM2-135M 45 KiB in float32."""
    assert Layout(36, 8, 128, "bfloat16").bytes_per_token == 144 * 1024
    assert Layout(30, 3, 64, "float32").bytes_per_token == 45 * 1024


def test_chained_refuses_wrong_shapes_and_dtypes() -> None:
    good = make_segment()
    with pytest.raises(ValueError, match="must be"):
        Segment.chained(ROOT, FINGERPRINT, 0, (1, 2), good.keys, good.values)
    with pytest.raises(ValueError, match="fingerprint says"):
        Segment.chained(ROOT, FINGERPRINT, 0, (1, 2, 3), good.keys.half(), good.values.half())
    with pytest.raises(ValueError, match="must be"):
        Segment.chained(ROOT, FINGERPRINT, 0, (), good.keys[:, :, :0], good.values[:, :, :0])
