"""Replies of OpenAI's routes, in OpenAI's shapes, and the ``memory`` object that goes with them."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict


class CachedTokens(TypedDict):
    """The number of the prompt's tokens that came from segments."""

    cached_tokens: int


class UsageReply(TypedDict):
    """Tokens of the prompt and of the answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class RecalledMemory(TypedDict):
    """A memory in the prompt: where its keys and values came from, how exact they are, and why it is there."""

    id: str
    tokens: int | None
    source: Literal["resident", "host", "disk", "computed"]
    fidelity: str
    recomputed: int
    load_ms: float
    why: str


class ReceiptReply(TypedDict):
    """The account of the memories in one prompt. ``instructions_left_out`` are standing instructions, by id, that are
    too many."""

    cube: str | list[str]
    mode: Literal["kv", "text", "off"]
    fidelity: str
    memories: list[RecalledMemory]
    instructions_left_out: NotRequired[list[str]]
    prompt_tokens: int
    cached_tokens: int


class FunctionReply(TypedDict):
    """A function's name, and its arguments as JSON."""

    name: str
    arguments: str


class ToolCallReply(TypedDict):
    """A call of a tool."""

    id: str | None
    type: Literal["function"]
    function: FunctionReply


class ChatMessageReply(TypedDict):
    """The answer; its content is null where it only calls tools."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: NotRequired[list[ToolCallReply]]


class ChatChoice(TypedDict):
    """One of the answers."""

    index: int
    message: ChatMessageReply
    logprobs: dict[str, Any] | None
    finish_reason: str | None


class ChatReply(TypedDict):
    """A whole chat reply."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageReply
    memory: ReceiptReply | None


class CompletionChoice(TypedDict):
    """One of the texts."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: str | None


class CompletionReply(TypedDict):
    """A whole reply to one prompt or several; ``memory`` is a list where there are several prompts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageReply
    memory: NotRequired[ReceiptReply | list[ReceiptReply | None] | None]


class EmbeddingReply(TypedDict):
    """The vector of one text: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    """The vectors of all texts, in their order."""

    object: Literal["list"]
    model: str
    data: list[EmbeddingReply]
    usage: EmbeddingUsage


class ModelReply(TypedDict):
    """A model that is served; ``max_model_len`` in tokens, null where there is no limit."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    type: Literal["chat", "embedding"]
    max_model_len: int | None


class ModelList(TypedDict):
    """The models that are served."""

    object: Literal["list"]
    data: list[ModelReply]


class TokensReply(TypedDict):
    """Token ids of a text."""

    count: int
    max_model_len: int
    tokens: list[int]


class TextReply(TypedDict):
    """The text of token ids."""

    prompt: str
