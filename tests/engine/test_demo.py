"""The real demo model: injected keys and values against transformers' own full prefill."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.base import ChatMessage, MemoryText
from engine.prompt import PromptRenderer
from engine.transformers import LoadedModel, ModelRunner, SequenceKV, Work
from kvcache import Segment, SegmentStore, root_key

MEMORIES = [
    "My dog is called Biscuit.",
    "I live in Lisbon, near the river.",
    "My sister Anna works as a nurse; her shift starts at 6:30.",
    "I'm allergic to peanuts & shellfish!",
    "Meine Großmutter heißt Käthe. 祖母の家は京都にあります。🦊",
    "def add(a, b):\n    return a + b",
    "  spaces   and\ttabs ",
]
QUESTION = [ChatMessage("user", "What is my dog called?")]


@torch.inference_mode()
def test_injected_logits_are_within_a_thousandth_of_full_prefill(demo_model: LoadedModel, tmp_path: Path) -> None:
    renderer = PromptRenderer(demo_model.tokenizer)
    prompt = renderer.render(QUESTION, [MemoryText(f"m{i}@1", text) for i, text in enumerate(MEMORIES)])
    tokens = prompt.token_ids
    demo_model.model.set_attn_implementation("sdpa")
    full = demo_model.model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
    demo_model.model.set_attn_implementation("recallkv")

    runner, layout = ModelRunner(demo_model.model), demo_model.fingerprint.layout
    source = SequenceKV(layout, demo_model.device, len(tokens))
    runner.forward([Work(source, tokens, n_logits=0)])
    store, parent, start = SegmentStore(tmp_path), root_key(demo_model.fingerprint), 0
    for piece in prompt.pieces[:-1]:
        end = start + len(piece.token_ids)
        keys, values = source.copy_range(start, end)
        segment = Segment.chained(parent, demo_model.fingerprint, start, tokens[start:end], keys, values)
        store.put(segment)
        parent, start = segment.key, end
    store.demote("disk")
    kv = SequenceKV(layout, demo_model.device, len(tokens))
    for entry in store.catalogue.match(root_key(demo_model.fingerprint), tokens):
        kv.inject(store.load(entry.key, demo_model.fingerprint).segment, min_span=12)
    assert kv.n_tokens == start
    injected = runner.forward([Work(kv, tokens[start:])])[0]
    store.close()
    assert (injected - full).abs().max().item() <= 1e-3


def test_the_demo_model_is_what_it_should_be(demo_model: LoadedModel) -> None:
    assert demo_model.context == 8192
    assert demo_model.eos_token_ids == {demo_model.tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert demo_model.fingerprint.layout.bytes_per_token == 2 * 30 * 3 * 64 * (
        4 if demo_model.fingerprint.layout.dtype == "float32" else 2
    )


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000))
def test_tokens_of_pieces_are_the_tokens_of_the_whole_text(demo_model: LoadedModel, seed: int) -> None:
    """Pieces are tokenised one by one; for this tokenizer that changes nothing."""
    rng = random.Random(seed)
    texts = [rng.choice(MEMORIES) + " " + rng.choice(MEMORIES) for _ in range(rng.randint(1, 5))]
    prompt = PromptRenderer(demo_model.tokenizer).render(QUESTION, [MemoryText("m", text) for text in texts])
    text = demo_model.tokenizer.decode(prompt.token_ids, skip_special_tokens=False)
    assert tuple(demo_model.tokenizer.encode(text, add_special_tokens=False)) == prompt.token_ids


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_tokens_from_segments(demo_folder: Path) -> None:
    from engine.transformers import load_model

    loaded = load_model(demo_folder, device="cuda", dtype="float32")
    runner, layout = ModelRunner(loaded.model), loaded.fingerprint.layout
    tokens = tuple(loaded.tokenizer.encode(" ".join(MEMORIES)))
    source = SequenceKV(layout, loaded.device, len(tokens))
    full = runner.forward([Work(source, tokens)])[0]
    keys, values = source.copy_range(0, 20)
    segment = Segment.chained(root_key(loaded.fingerprint), loaded.fingerprint, 0, tokens[:20], keys, values)
    kv = SequenceKV(layout, loaded.device, len(tokens))
    kv.inject(segment, min_span=1)
    injected = runner.forward([Work(kv, tokens[20:])])[0]
    torch.testing.assert_close(injected, full, atol=1e-3, rtol=1e-3)
