"""Chat templates of several families, small, with byte-level tokenizers that have their marks as special tokens."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Family:
    """A template and its marks: special tokens, and added ones that are not called special."""

    template: str
    special: tuple[str, ...]
    added: tuple[str, ...] = ()
    has_system: bool = True
    strips: bool = False


def byte_tokenizer(template: str, special: Sequence[str | AddedToken] = (), added: Sequence[str] = ()) -> Any:
    """One token a byte, and these."""
    alphabet = sorted(ByteLevel.alphabet())
    backend = Tokenizer(BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    backend.add_special_tokens(list(special))
    backend.add_tokens([AddedToken(name, normalized=False) for name in added])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = template
    return tokenizer


CHATML = Family(
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    ("<tool_call>", "</tool_call>"),
)
LLAMA = Family(
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"),
    strips=True,
)
GEMMA = Family(
    "<bos>{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    has_system=False,
    strips=True,
)
MISTRAL = Family(
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% else %}[SYSTEM_PROMPT] {{ m.content }}[/SYSTEM_PROMPT]"
    "{% endif %}{% endfor %}",
    ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CALLS]"),
)
PHI = Family(
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
)
DEEPSEEK = Family(
    "<｜begin▁of▁sentence｜>{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% else %}{{ m.content }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{% endif %}",
    ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
)
ZEPHYR = Family(
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    ("<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"),
)
FAMILIES = {
    "chatml": CHATML,
    "llama": LLAMA,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "phi": PHI,
    "deepseek": DEEPSEEK,
    "zephyr": ZEPHYR,
}
NAMES = tuple(dict.fromkeys(name for family in FAMILIES.values() for name in (*family.special, *family.added)))
"""The marks of all of them."""


@functools.cache
def family_tokenizer(name: str, all_names: bool = False) -> Any:
    """The tokenizer of a family; with ``all_names`` it has the marks of all families."""
    family = FAMILIES[name]
    rest = tuple(mark for mark in NAMES if mark not in family.added)
    return byte_tokenizer(family.template, rest if all_names else family.special, family.added)


@functools.cache
def _plain() -> Any:
    return byte_tokenizer("")


def bytes_of(text: str) -> list[int]:
    """Tokens of a text in any of these tokenizers where it holds no marks, whatever it looks like."""
    ids: list[int] = _plain().encode(text, add_special_tokens=False)
    return ids


def item(text: str) -> str:
    """A memory as prompts have it."""
    first, *further = text.strip().splitlines() or [""]
    return "\n".join([f"- {first}", *(f"  {line}" if line.strip() else "" for line in further)]) + "\n"
