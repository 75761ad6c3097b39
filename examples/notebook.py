"""Keep a transformers cache as a segment, and use it another day: ``python examples/notebook.py [MODEL]``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kvcache import Fingerprint, TieredStore, cache_from_segments, root_key, segment_from_cache


@torch.inference_mode()
def run(name: str | Path, folder: Path) -> None:
    """Store the cache of a context, open the store again, and let the model go on from it."""
    model = AutoModelForCausalLM.from_pretrained(name)
    tokenizer = AutoTokenizer.from_pretrained(name)

    fingerprint = Fingerprint.of_model(model, tokenizer)  # any transformers causal language model
    context = tokenizer("My dog is called Biscuit. I live in Lisbon.").input_ids
    cache = model(torch.tensor([context]), use_cache=True).past_key_values

    store = TieredStore(folder)  # files, checksums, tiers
    store.put(segment_from_cache(cache, fingerprint, root_key(fingerprint), context))
    store.close()

    store = TieredStore(folder)  # another day
    tokens = context + tokenizer(" My dog is").input_ids
    found = store.catalogue.match(root_key(fingerprint), tokens)
    chain = [store.load(entry.key, fingerprint).segment for entry in found]
    injected = cache_from_segments(chain)
    logits = model(torch.tensor([tokens[injected.get_seq_length() :]]), past_key_values=injected).logits

    print(f"{sum(segment.n_tokens for segment in chain)} of {len(tokens)} tokens came from disk")
    print(repr(tokenizer.decode(logits[0, -1].argmax())))
    store.close()


def main(model: str | Path | None = None) -> None:
    """Run with ``model``: a folder or a Hugging Face id. None is the demo model, which comes out of a package."""
    from server.assets import demo_model_folder

    with tempfile.TemporaryDirectory() as folder:
        run(model or demo_model_folder(), Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
