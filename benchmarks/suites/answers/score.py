"""Teacher-forced likelihoods and greedy answers behind prompts that are computed already."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from engine.transformers import ModelRunner, SequenceKV, Work

_ARTICLES = {"a", "an", "the"}
_NAMES = re.compile(r"<[|/]?[^<>\s]*[|]?>")  # of tokens that are no text


@dataclass(frozen=True, eq=False)
class Computed:
    """A prompt's keys and values, the logits behind it, float32 [1, vocabulary], and how many of its ``n_tokens`` were
    computed for it."""

    kv: SequenceKV
    logits: torch.Tensor
    n_tokens: int
    n_computed: int


def log_likelihoods(runner: ModelRunner, prompt: Computed, answers: Sequence[Sequence[int]]) -> list[float]:
    """Give the natural-log likelihood of each answer behind the prompt, all its tokens together. One pass for all."""
    longer = [answer for answer in answers if len(answer) > 1]
    work = [Work(prompt.kv.fork(len(answer)), answer[:-1], len(answer) - 1) for answer in longer]
    rest = iter(torch.split(runner.forward(work), [item.n_logits for item in work]) if work else ())
    found = []
    for answer in answers:
        rows = torch.cat([prompt.logits, next(rest)]) if len(answer) > 1 else prompt.logits
        ids = torch.tensor(answer, device=rows.device)[:, None]
        found.append(float(torch.log_softmax(rows, -1).gather(1, ids).sum()))
    return found


def greedy(
    runner: ModelRunner, prompts: Sequence[Computed], n_tokens: int, ends: Collection[int]
) -> list[tuple[int, ...]]:
    """Answer each prompt greedily with at most ``n_tokens`` tokens, the one that ends it included; all side by side."""
    answers = [[int(prompt.logits[0].argmax())] for prompt in prompts]
    kvs = [prompt.kv.fork(n_tokens) for prompt in prompts]
    while going := [i for i, answer in enumerate(answers) if len(answer) < n_tokens and answer[-1] not in ends]:
        logits = runner.forward([Work(kvs[i], answers[i][-1:]) for i in going])
        for i, row in zip(going, logits, strict=True):
            answers[i].append(int(row.argmax()))
    return [tuple(answer) for answer in answers]


def f1(answer: str, gold: str) -> float:
    """Compute the word F1 of an answer, without articles and marks, as SQuAD has it (Rajpurkar et al. 2016)."""
    said, wanted = Counter(_words(answer)), Counter(_words(gold))
    common = sum((said & wanted).values())
    return 2 * common / (sum(said.values()) + sum(wanted.values())) if common else 0.0


def _words(text: str) -> list[str]:
    spoken = _NAMES.sub(" ", text).casefold()
    return [word for word in re.findall(r"\w+", spoken) if word not in _ARTICLES]
