"""Text to vectors."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx
import numpy as np
import numpy.typing as npt

from memory.errors import EmbedderError, EmbedderRefused
from memory.search.calibration import AS_IT_IS, Calibration

Vectors = npt.NDArray[np.float32]
_BATCH = 32
_BATCH_TOKENS = 2048
MAX_TOKENS = 300_000
"""At most this much is read for one request, as OpenAI has it."""
Role = Literal["query", "passage"]
"""What a text is embedded for: to find something, or to be found."""
# What models of this family are told before a text, though their folders do not say so.
_E5 = re.compile(r"(?:^|[-_/])e5-(?:small|base|large)", re.IGNORECASE)
_E5_PROMPTS: Mapping[Role, str] = {"query": "query: ", "passage": "passage: "}
_NO_PROMPTS: Mapping[Role, str] = {}


class Embedder(Protocol):
    """Turns texts into unit vectors whose dot product is their likeness."""

    @property
    def name(self) -> str:
        """The model and its weights: vectors of another name are not comparable."""
        ...

    @property
    def prompts(self) -> Mapping[Role, str]:
        """The text that is read before another in each role; roles without one are embedded alike."""
        ...

    @property
    def calibration(self) -> Calibration | None:
        """The scale of the cosines; None: it is to be measured."""
        ...

    def embed(self, texts: Sequence[str], role: Role = "passage") -> Vectors:
        """Return vectors, float32 [len(texts), dim], each row of length 1 (or 0 for an empty text). Raises
        ``EmbedderError``."""
        ...


@dataclass(frozen=True)
class Embedded:
    """Unit vectors, float32 [texts, dim], and how many tokens were read for them, in the embedder's own count."""

    vectors: Vectors
    tokens: int


class WholeEmbedder(Embedder, Protocol):
    """An embedder that also serves whoever asks for vectors. ``name`` stands beside stored vectors and never changes;
    ``title`` is for people."""

    @property
    def title(self) -> str: ...

    @property
    def window(self) -> int | None:
        """The number of tokens that are read at once; None where that is not known."""
        ...

    def embed_whole(self, texts: Sequence[str], dimensions: int | None = None, role: Role = "passage") -> Embedded:
        """Embed all of every text, however long: what does not fit into one window is read in several, and its vector
        is the mean of theirs, weighted by their tokens. Raises ``EmbedderError``, ``EmbedderRefused``."""
        ...


def _shortened(vectors: Vectors, dimensions: int | None, title: str, allowed: Sequence[int] | None) -> Vectors:
    """Return the first numbers of each vector, as unit vectors, where the model was trained for that: ``allowed`` are
    the numbers of dimensions that it can give, None any. Raises ``EmbedderRefused``."""
    dim = vectors.shape[1]
    if dimensions is None or dimensions == dim:
        return vectors
    if not 0 < dimensions <= dim or (allowed is not None and dimensions not in allowed):
        fewer = " or fewer" if allowed is None else f" or {', '.join(map(str, allowed))}" if allowed else ""
        raise EmbedderRefused(f"The embedder '{title}' gives {dim}{fewer} dimensions, not {dimensions}.", "dimensions")
    return _normalised(vectors[:, :dimensions])


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

    @property
    def title(self) -> str:
        return self.name

    @property
    def window(self) -> int | None:
        return None

    @property
    def prompts(self) -> Mapping[Role, str]:
        return _NO_PROMPTS

    @property
    def calibration(self) -> Calibration | None:
        return AS_IT_IS

    def embed(self, texts: Sequence[str], role: Role = "passage") -> Vectors:
        vectors = np.zeros((len(texts), self._dim), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            words = _words(text)
            for feature in [*words, *(" ".join(pair) for pair in pairwise(words))]:
                digest = hashlib.blake2b(feature.encode(), digest_size=8).digest()
                row[int.from_bytes(digest[:4], "little") % self._dim] += 1.0 if digest[4] & 1 else -1.0
        return _normalised(vectors)

    def embed_whole(self, texts: Sequence[str], dimensions: int | None = None, role: Role = "passage") -> Embedded:
        """Embed texts, whose tokens are words here."""
        vectors = _shortened(self.embed(texts), dimensions, self.title, ())
        return Embedded(vectors, sum(len(_words(text)) for text in texts))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


class FolderEmbedder:
    """A sentence-transformers folder or Hugging Face id, run with plain transformers on the CPU.

    Mean and first-token pooling are known, which covers the usual retrieval models; others are refused by name.
    The model is loaded at first use, or by :meth:`load`. ``title``: what people call it, where that is not its name.
    """

    def __init__(self, model: str | Path, title: str | None = None, calibration: Calibration | None = None) -> None:
        self._model_id = str(model)
        self._title = title
        self.calibration = calibration
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    @property
    def name(self) -> str:
        return Path(self._model_id).name if Path(self._model_id).is_dir() else self._model_id

    @property
    def title(self) -> str:
        return self._title or self.name

    @property
    def window(self) -> int | None:
        return (self._loaded or self.load()).max_tokens

    @property
    def prompts(self) -> Mapping[Role, str]:
        return (self._loaded or self.load()).prompts

    def load(self) -> _Loaded:
        """Load the model now. Raises ``EmbedderError``."""
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self._model_id)
            return self._loaded

    def embed(self, texts: Sequence[str], role: Role = "passage") -> Vectors:
        loaded = self.load()
        texts = loaded.prompted(texts, role)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of one length need no padding
        vectors = np.zeros((len(texts), loaded.dim), dtype=np.float32)
        with self._lock:  # a fast tokenizer's padding state is not safe to share
            for begin in range(0, len(order), _BATCH):
                batch = order[begin : begin + _BATCH]
                vectors[batch] = loaded.embed([texts[i] for i in batch])
        return _normalised(vectors)

    def embed_whole(self, texts: Sequence[str], dimensions: int | None = None, role: Role = "passage") -> Embedded:
        loaded = self.load()
        texts = loaded.prompted(texts, role)
        _shortened(np.zeros((0, loaded.dim), np.float32), dimensions, self.title, loaded.dimensions)
        with self._lock:
            windows = loaded.windows(texts)
        lengths = np.array([len(tokens) for _, tokens in windows], dtype=np.int64)
        if lengths.sum() > MAX_TOKENS:
            raise EmbedderRefused(
                f"The texts have {lengths.sum():,} tokens; at most {MAX_TOKENS:,} are read for one request.", "input"
            )
        vectors = np.zeros((len(texts), loaded.dim), dtype=np.float32)
        for batch in _batches(lengths):
            with self._lock:  # let go of in between: searches need the embedder too
                found = _normalised(loaded.embed_tokens([windows[i][1] for i in batch]))
            for i, vector in zip(batch, found, strict=True):
                vectors[windows[i][0]] += vector * lengths[i]
        whole = _shortened(_normalised(vectors), dimensions, self.title, loaded.dimensions)
        return Embedded(whole, int(lengths.sum()))


def _batches(lengths: npt.NDArray[np.int64]) -> Iterator[list[int]]:
    """Return indices of windows of about one length, in batches that are quickly read."""
    batch: list[int] = []
    for i in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[i] > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


class _Loaded:
    def __init__(
        self, model: Any, tokenizer: Any, *, first_token: bool, max_tokens: int, prompts: Mapping[Role, str]
    ) -> None:
        self.prompts = prompts
        self._model = model
        self._tokenizer = tokenizer
        self._first_token = first_token
        self.max_tokens = max_tokens
        self.dim: int = model.config.hidden_size
        self.dimensions = _dimensions(model.config)

    def prompted(self, texts: Sequence[str], role: Role) -> Sequence[str]:
        """Return the texts with what the model is to read before them."""
        prompt = self.prompts.get(role)
        return [prompt + text for text in texts] if prompt else texts

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self._embed(
            self._tokenizer(list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        )

    def windows(self, texts: Sequence[str]) -> list[tuple[int, list[int]]]:
        """Return all tokens of the texts in runs that can be read at once, the marks around each run included; with
        each run the index of its text."""
        coded = self._tokenizer(
            list(texts), truncation=True, max_length=self.max_tokens, return_overflowing_tokens=True
        )
        return list(zip(coded["overflow_to_sample_mapping"], coded["input_ids"], strict=True))

    def embed_tokens(self, rows: Sequence[Sequence[int]]) -> Vectors:
        """Return vectors of windows, float32 [rows, dim]."""
        import torch

        ids = torch.full((len(rows), max(map(len, rows))), self._tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return self._embed({"input_ids": ids, "attention_mask": mask})

    def _embed(self, inputs: Mapping[str, Any]) -> Vectors:
        import torch

        with torch.inference_mode():
            hidden = self._model(**inputs).last_hidden_state.float()
        if self._first_token:
            pooled = hidden[:, 0]
        else:
            mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp_min(1e-9)
        vectors: Vectors = pooled.numpy()
        return vectors


def _dimensions(config: Any) -> tuple[int, ...] | None:
    """Return the dimensions to which the model's vectors may be shortened, as vLLM reads it from a model's
    configuration; None: to any number."""
    sizes = getattr(config, "matryoshka_dimensions", None)
    if sizes:
        return tuple(int(size) for size in sizes)
    return None if getattr(config, "is_matryoshka", False) else ()


def _load(model_id: str) -> _Loaded:
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        pooling = _read_json(model_id, "1_Pooling/config.json")
        sentence = _read_json(model_id, "sentence_bert_config.json")
        prompts = prompts_of(_read_json(model_id, "config_sentence_transformers.json"), model_id)
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
    return _Loaded(model, tokenizer, first_token=first_token, max_tokens=max_tokens, prompts=prompts)


def prompts_of(config: Mapping[str, Any], model_id: str) -> Mapping[Role, str]:
    """Return what a model is to read before a text in each role, from what sentence-transformers keeps beside it; where
    that says nothing, from the name of a family that is known."""
    said = config.get("prompts")
    said = {name: text for name, text in said.items() if isinstance(text, str)} if isinstance(said, dict) else {}
    usual = said.get(config.get("default_prompt_name") or "", "")
    query, passage = said.get("query", usual), said.get("passage", said.get("document", usual))
    if query or passage:
        return {"query": query, "passage": passage}
    return _E5_PROMPTS if _E5.search(model_id) and not said else _NO_PROMPTS


def _read_json(model_id: str, name: str) -> dict[str, Any]:
    from transformers.utils import cached_file

    path = cached_file(model_id, name, _raise_exceptions_for_missing_entries=False)
    return json.loads(Path(path).read_text()) if path else {}


class EndpointEmbedder:
    """Any endpoint that speaks OpenAI's ``/embeddings``. ``url`` ends before ``/embeddings``. Where the model's name is
    a folder here, as vLLM's may be, its prompts are read there; else the endpoint gets texts as they are."""

    calibration: Calibration | None = None

    def __init__(self, url: str, model: str, api_key: str | None = None, timeout_s: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._model = model
        self.prompts: Mapping[Role, str] = _prompts_of_folder(Path(model))
        self._client = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout_s)

    @property
    def name(self) -> str:
        return f"{self._client.base_url}:{self._model}"

    @property
    def title(self) -> str:
        return self._model

    @property
    def window(self) -> int | None:
        return None

    def embed(self, texts: Sequence[str], role: Role = "passage") -> Vectors:
        return self._asked(self._body(texts, role)).vectors

    def _body(self, texts: Sequence[str], role: Role) -> dict[str, Any]:
        prompt = self.prompts.get(role, "")
        return {"model": self._model, "input": [prompt + text for text in texts]}

    def embed_whole(self, texts: Sequence[str], dimensions: int | None = None, role: Role = "passage") -> Embedded:
        """Embed texts; what is too long, and which dimensions there are, the endpoint knows."""
        body = self._body(texts, role)
        try:
            found = self._asked(body if dimensions is None else {**body, "dimensions": dimensions})
        except EmbedderError as error:
            cause = error.__cause__
            if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code in (400, 413, 422):
                raise EmbedderRefused(f"The embedding endpoint refuses this: {_reason(cause.response)}") from error
            raise
        return Embedded(_shortened(found.vectors, dimensions, self.title, ()), found.tokens)

    def _asked(self, body: dict[str, Any]) -> Embedded:
        try:
            reply = self._client.post("/embeddings", json=body)
            reply.raise_for_status()
            told = reply.json()
            rows = sorted(told["data"], key=lambda row: row["index"])
            vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
            tokens = int((told.get("usage") or {}).get("prompt_tokens") or 0)
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise EmbedderError(f"the embedding endpoint failed: {type(error).__name__}") from error
        if vectors.shape[0] != len(body["input"]) or vectors.ndim != 2:
            raise EmbedderError("the embedding endpoint returned another number of vectors than texts")
        return Embedded(_normalised(vectors), tokens)


def _prompts_of_folder(folder: Path) -> Mapping[Role, str]:
    file = folder / "config_sentence_transformers.json"
    if not file.is_file():
        return _NO_PROMPTS
    try:
        return prompts_of(json.loads(file.read_text()), str(folder))
    except (OSError, ValueError) as error:
        raise EmbedderError(f"{file} cannot be read: {error}") from error


def _reason(reply: httpx.Response) -> str:
    """Give what an endpoint says of a request that it refuses, in OpenAI's shape; else its status."""
    try:
        return str(reply.json()["error"]["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return f"status {reply.status_code}"
