"""What the peers over transformers share: the model, in float32, and token ids where an interface wants text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers

from benchmarks.peers.base import Job


def load(job: Job) -> Any:
    """The model in float32 with PyTorch's own attention."""
    torch.set_num_threads(job.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        job.model, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    )
    return model.eval()


def versions() -> dict[str, str]:
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def as_text(token_ids: Sequence[int]) -> str:
    """Token ids as ``IdTokenizer`` reads them back."""
    return "".join(f"{token_id} " for token_id in token_ids)


class IdTokenizer:
    """A tokenizer for interfaces that take text only: a text is token ids, each followed by a blank. So a peer gets
    exactly the prompt that all get, and pays next to nothing for reading it."""

    eos_token_id = None
    pad_token = pad_token_id = 0

    def encode(self, text: str, return_tensors: str | None = None, **_: object) -> Any:
        token_ids = [int(word) for word in text.split()]
        return token_ids if return_tensors is None else torch.tensor([token_ids])

    def decode(self, token_ids: Sequence[int], **_: object) -> str:
        return as_text([int(token_id) for token_id in token_ids])

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **_: object) -> str:
        return "".join(message["content"] for message in messages)
