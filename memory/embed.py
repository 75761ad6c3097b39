"""Text to vectors."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import httpx
import numpy as np
import numpy.typing as npt

from memory.errors import EmbedderError

Vectors = npt.NDArray[np.float32]
_BATCH = 32


class Embedder(Protocol):
    """Turns texts into unit vectors whose dot product is their likeness."""

    @property
    def name(self) -> str:
        """Model and weights: vectors of another name are not comparable."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32 [len(texts), dim], each row of length 1 (or 0 for an empty text). Raises ``EmbedderError``."""
        ...


def _normalised(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit


class HashEmbedder:
    """Hashed words and word pairs. No model: finds shared words only, fast and the same everywhere."""

    def __init__(self, dim: int = 256) -> None:
        self._dim = dim

    @property
    def name(self) -> str:
        return f"hash-{self._dim}"

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self._dim), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            words = re.findall(r"\w+", text.lower())
            for feature in [*words, *(" ".join(pair) for pair in pairwise(words))]:
                digest = hashlib.blake2b(feature.encode(), digest_size=8).digest()
                row[int.from_bytes(digest[:4], "little") % self._dim] += 1.0 if digest[4] & 1 else -1.0
        return _normalised(vectors)


class FolderEmbedder:
    """A sentence-transformers folder or Hugging Face id, run with plain transformers on the CPU.

    Mean and first-token pooling are known, which covers the usual retrieval models; others are refused by name.
    The model is loaded at first use, or by :meth:`load`.
    """

    def __init__(self, model: str | Path) -> None:
        self._model_id = str(model)
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    @property
    def name(self) -> str:
        return Path(self._model_id).name if Path(self._model_id).is_dir() else self._model_id

    def load(self) -> None:
        """Load the model now. Raises ``EmbedderError``."""
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self._model_id)

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.load()
        assert self._loaded is not None
        if not texts:
            return np.zeros((0, self._loaded.dim), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of one length need no padding
        vectors = np.zeros((len(texts), self._loaded.dim), dtype=np.float32)
        with self._lock:  # a fast tokenizer's padding state is not safe to share
            for begin in range(0, len(order), _BATCH):
                batch = order[begin : begin + _BATCH]
                vectors[batch] = self._loaded.embed([texts[i] for i in batch])
        return _normalised(vectors)


class _Loaded:
    def __init__(self, model: Any, tokenizer: Any, *, first_token: bool, max_tokens: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._first_token = first_token
        self._max_tokens = max_tokens
        self.dim: int = model.config.hidden_size

    def embed(self, texts: Sequence[str]) -> Vectors:
        import torch

        inputs = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = self._model(**inputs).last_hidden_state.float()
        if self._first_token:
            pooled = hidden[:, 0]
        else:
            mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp_min(1e-9)
        vectors: Vectors = pooled.numpy()
        return vectors


def _load(model_id: str) -> _Loaded:
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        pooling = _read_json(model_id, "1_Pooling/config.json")
        sentence = _read_json(model_id, "sentence_bert_config.json")
        tokenizer = AutoTokenizer.from_pretrained(model_id)
        # For texts this short plain attention is the quickest; bfloat16, where the CPU has it, changes no cosine by
        # more than 2e-4 and takes a third of the time.
        dtype = torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
        model = AutoModel.from_pretrained(model_id, dtype=dtype, attn_implementation="eager").eval()
    except (OSError, ValueError) as error:
        raise EmbedderError(f"the embedder '{model_id}' cannot be loaded: {error}") from error
    first_token = bool(pooling.get("pooling_mode_cls_token"))
    if pooling and not first_token and not pooling.get("pooling_mode_mean_tokens"):
        raise EmbedderError(f"the embedder '{model_id}' pools its tokens in a way that is not known here")
    max_tokens = sentence.get("max_seq_length") or min(512, model.config.max_position_embeddings)
    return _Loaded(model, tokenizer, first_token=first_token, max_tokens=max_tokens)


def _read_json(model_id: str, name: str) -> dict[str, Any]:
    from transformers.utils import cached_file

    path = cached_file(model_id, name, _raise_exceptions_for_missing_entries=False)
    return json.loads(Path(path).read_text()) if path else {}


class EndpointEmbedder:
    """Any endpoint that speaks OpenAI's ``/embeddings``. ``url`` ends before ``/embeddings``."""

    def __init__(self, url: str, model: str, api_key: str | None = None, timeout_s: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._model = model
        self._client = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout_s)

    @property
    def name(self) -> str:
        return f"{self._client.base_url}:{self._model}"

    def embed(self, texts: Sequence[str]) -> Vectors:
        try:
            reply = self._client.post("/embeddings", json={"model": self._model, "input": list(texts)})
            reply.raise_for_status()
            rows = sorted(reply.json()["data"], key=lambda row: row["index"])
            vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise EmbedderError(f"the embedding endpoint failed: {type(error).__name__}") from error
        if vectors.shape[0] != len(texts) or vectors.ndim != 2:
            raise EmbedderError("the embedding endpoint returned another number of vectors than texts")
        return _normalised(vectors)
