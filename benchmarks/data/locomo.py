"""Questions over memories, from LoCoMo and MuSiQue files that the user brings.

LoCoMo (Maharana et al. 2024): conversations with questions and the turns that hold the answer. MuSiQue (Trivedi et
al. 2022), as CacheBlend uses it: questions whose answer needs two or more of ten passages.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Question:
    """A question over some memories of a cube. ``chosen`` are indices into ``cube``, ascending."""

    text: str
    cube: tuple[str, ...]
    chosen: tuple[int, ...]


def load_questions(path: Path, n_memories: int, tokens_each: int, n: int, encode: Encode, seed: int) -> list[Question]:
    """``n`` questions, each over ``n_memories`` texts of about ``tokens_each`` tokens: those that hold the evidence
    (MuSiQue: some passages) and others of the same source. Raises ``ValueError`` for a file of another kind."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, list) or not data:
        raise ValueError(f"{path} is neither a LoCoMo nor a MuSiQue file")
    rng = random.Random(seed)
    if "conversation" in data[0]:
        per_source = -(-n // len(data))
        found = [q for item in data for q in _locomo(item, n_memories, tokens_each, per_source, encode, rng)]
    elif "ctxs" in data[0]:
        found = [_musique(item, n_memories, tokens_each, encode, rng) for item in rng.sample(data, min(n, len(data)))]
    else:
        raise ValueError(f"{path} is neither a LoCoMo nor a MuSiQue file")
    return found[:n]


def _locomo(
    item: dict[str, Any], n_memories: int, tokens_each: int, n: int, encode: Encode, rng: random.Random
) -> list[Question]:
    conversation = item["conversation"]
    texts: list[str] = []
    holds: list[set[str]] = []
    for session in range(1, 100):
        turns = conversation.get(f"session_{session}")
        if turns:
            words = [(word, turn["dia_id"]) for turn in turns for word in f"{turn['speaker']}: {turn['text']}".split()]
            for chunk in _chunks(words, tokens_each, encode):
                texts.append(" ".join(word for word, _ in chunk))
                holds.append({dia_id for _, dia_id in chunk})
    asked = [qa for qa in item["qa"] if qa["category"] in (1, 2, 4) and qa.get("evidence")]
    rng.shuffle(asked)
    questions: list[Question] = []
    for qa in asked:
        evidence = next((i for i, ids in enumerate(holds) if qa["evidence"][0] in ids), None)
        if evidence is not None and len(questions) < n:
            others = rng.sample([i for i in range(len(texts)) if i != evidence], n_memories - 1)
            questions.append(Question(qa["question"], tuple(texts), tuple(sorted([evidence, *others]))))
    return questions


def _musique(item: dict[str, Any], n_memories: int, tokens_each: int, encode: Encode, rng: random.Random) -> Question:
    texts = []
    for passage in item["ctxs"]:
        words = [(word, "") for word in f"{passage['title']} {passage['text']}".split()]
        texts += [" ".join(word for word, _ in chunk) for chunk in _chunks(words, tokens_each, encode)]
    chosen = rng.sample(range(len(texts)), min(n_memories, len(texts)))
    return Question(item["question"], tuple(texts), tuple(sorted(chosen)))


def _chunks(words: Sequence[tuple[str, str]], tokens_each: int, encode: Encode) -> list[list[tuple[str, str]]]:
    """Whole runs of words of about ``tokens_each`` tokens as a line of the prompt; a rest that is shorter is left."""
    chunks: list[list[tuple[str, str]]] = []
    chunk: list[tuple[str, str]] = []
    room = tokens_each - 2  # "- " and the end of the line
    used = 0
    for word in words:
        n = len(encode(" " + word[0]))
        if chunk and used + n > room:
            chunks.append(chunk)
            chunk, used = [], 0
        chunk.append(word)
        used += n
    return chunks
