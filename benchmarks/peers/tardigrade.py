"""TardigradeDB: the KV of a text as a pack in its database."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tardigrade_db
import torch
from tardigrade_hooks import KnowledgePackStore, UserMessageAdapter
from tardigrade_hooks.multi_composer import NaiveConcatComposer
from transformers import DynamicCache

from benchmarks.peers import hf
from benchmarks.peers.base import Answer, Job, warm_up_tokens


class Tardigrade:
    """Stores with its ``KnowledgePackStore``; loads the pack by its id, composes it into a cache and runs the question
    over it. That leaves out its search, which would run the model over the question once more."""

    notes = "float32 weights, cache of 4 bits a value in its database; loaded by id, without its search"

    def __init__(self, model: Any, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._composer = NaiveConcatComposer()
        self._context: list[int] = []
        self.build(warm_up_tokens(32))
        self.cached(self._context, [5])

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {"tardigrade-db": version("tardigrade-db"), **hf.versions()}

    def build(self, context: Sequence[int]) -> float:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        self._engine = tardigrade_db.Engine(str(self._folder))
        # A text is stored as it is, without a chat template around it.
        self._store = KnowledgePackStore(self._engine, self._model, hf.IdTokenizer(), adapter=UserMessageAdapter())
        text = hf.as_text(context)
        begin = time.perf_counter()
        self._pack = self._store.store(text, auto_link=False)
        seconds = time.perf_counter() - begin
        self._context = list(context)
        return seconds

    def direct(self, tokens: Sequence[int]) -> Answer:
        begin = time.perf_counter()
        return self._ask(tokens, DynamicCache(), begin)

    def cached(self, context: Sequence[int], query: Sequence[int]) -> Answer:
        if list(context) != self._context:
            self.build(context)
        store = self._store
        begin = time.perf_counter()
        pack = self._engine.load_pack_by_id(self._pack)
        cache = self._composer.compose([pack], store.num_kv_heads, store.head_dim, store.kv_dim, store.n_layers)
        answer = self._ask(query, cache, begin)
        expected = len(context) + len(query)
        assert cache.get_seq_length() == expected, f"{cache.get_seq_length()} tokens in the cache, not {expected}"
        return answer

    @torch.inference_mode()
    def _ask(self, tokens: Sequence[int], cache: Any, begin: float) -> Answer:
        out = self._model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        token_id = int(out.logits[0, -1].argmax())
        return Answer(time.perf_counter() - begin, token_id)

    def close(self) -> None:
        """Its files are in the job's folder."""


def start(job: Job) -> Tardigrade:
    return Tardigrade(hf.load(job), job.folder / "tardigrade")
