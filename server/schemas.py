"""What requests may say. OpenAI's bodies ignore what they do not know, as OpenAI does; ours do not."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from engine.base import Fidelity, Sampling, Structured, Tools

MAX_CHOICES = 8
MAX_TOP_LOGPROBS = 20


def _encodable(text: str) -> str:
    """JSON can name half a surrogate pair, which no tokenizer and no file can hold."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("the text holds a lone surrogate")
    return text


Text = Annotated[str, AfterValidator(_encodable)]
StopText = Annotated[Text, StringConstraints(min_length=1, max_length=1000)]


class MemoryOptions(BaseModel):
    """The ``memory`` object of a request: which cubes, how, how many, or exactly which memories."""

    model_config = ConfigDict(extra="forbid")

    cube: str | list[str] | None = None
    mode: Literal["auto", "kv", "text", "off"] | None = None
    top_k: Annotated[int, Field(ge=0, le=64)] | None = None
    ids: Annotated[list[str], Field(max_length=256)] = []
    fidelity: Fidelity | None = None
    remember: bool = False
    session: Annotated[Text, Field(min_length=1, max_length=200)] | None = None


class SceneHint(BaseModel):
    """What an application knows is coming."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[Text, Field(min_length=1, max_length=2000)]
    cube: str | None = None


class StreamOptions(BaseModel):
    include_usage: bool = False


class SamplingFields(BaseModel):
    """What chat and completions have in common."""

    model: str
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] = []
    ignore_eos: bool = False

    @field_validator("seed")
    @classmethod
    def _unsigned(cls, seed: int | None) -> int | None:
        return None if seed is None else seed % 2**63

    def sampling(self, max_tokens: int, logprobs: int | None) -> Sampling:
        """As the engine takes it. Unset fields get OpenAI's defaults."""
        return Sampling(
            max_tokens=max_tokens,
            min_tokens=self.min_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p,
            seed=self.seed,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty,
            logit_bias=self.logit_bias or {},
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            stop_token_ids=tuple(self.stop_token_ids),
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
        )


class TextPart(BaseModel):
    type: Literal["text"]
    text: Text


class FunctionCall(BaseModel):
    name: Text
    arguments: Text = "{}"


class MessageToolCall(BaseModel):
    id: Text
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    tool_calls: Annotated[list[MessageToolCall], Field(max_length=128)] = []
    tool_call_id: Text | None = None

    @field_validator("tool_calls", mode="before")
    @classmethod
    def _none_is_none(cls, calls: Any) -> Any:
        return [] if calls is None else calls

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class Prefetch(BaseModel):
    """A message that is being typed, and the conversation before it."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[Text, Field(min_length=1, max_length=8000)]
    messages: Annotated[list[Message], Field(max_length=2000)] = []
    cube: str | None = None
    top_k: Annotated[int, Field(ge=0, le=64)] | None = None


class FunctionSpec(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: Annotated[Text, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    parameters: dict[str, Any] | None = None


class ToolSpec(BaseModel):
    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(BaseModel):
    name: Text


class NamedTool(BaseModel):
    type: Literal["function"] = "function"
    function: NamedFunction


class JsonSchema(BaseModel):
    name: Text = "answer"
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema comes with the type json_schema, and only with it")
        return self


class ChatRequest(SamplingFields):
    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ToolSpec], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    memory: MemoryOptions | None = None

    @model_validator(mode="after")
    def _supported(self) -> ChatRequest:
        if self.tools is None and self.tool_choice not in (None, "none"):
            raise ValueError("tool_choice needs tools")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs")
        return self

    @property
    def wanted_tools(self) -> Tools | None:
        if not self.tools or self.tool_choice == "none":
            return None
        choice = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else self.tool_choice
        return Tools(tuple(tool.model_dump(exclude_none=True) for tool in self.tools), choice or "auto")

    @property
    def structured(self) -> Structured | None:
        if self.response_format is None or self.response_format.type == "text":
            return None
        schema = self.response_format.json_schema
        return Structured(None if schema is None else schema.schema_)

    @property
    def wanted_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(SamplingFields):
    prompt: Text | Annotated[list[int], Field(min_length=1)] | Annotated[list[Text], Field(min_length=1, max_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: Literal[False] = False


MAX_EMBEDDED = 2048


def _embedded_texts(given: Any) -> Any:
    """One text or several, as a list."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list):
        raise PydanticCustomError("texts", "it must be a text or a list of texts")
    if not 1 <= len(texts) <= MAX_EMBEDDED:
        raise PydanticCustomError(
            "texts", "{n} texts were given; from 1 to {most} are taken at once", {"n": len(texts), "most": MAX_EMBEDDED}
        )
    if all(isinstance(item, int | list) for item in texts):
        raise PydanticCustomError("token_arrays", "token arrays are not supported: send text")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise PydanticCustomError("texts", "text {i} is no text", {"i": i})
        if not text:
            raise PydanticCustomError("texts", "text {i} is empty", {"i": i})
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise PydanticCustomError("texts", "text {i} holds a lone surrogate", {"i": i})
    return texts


class EmbeddingRequest(BaseModel):
    model: str | None = None
    input: Annotated[list[str], BeforeValidator(_embedded_texts, json_schema_input_type=str | list[str])]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


class TokenizeRequest(BaseModel):
    model: str | None = None
    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class DetokenizeRequest(BaseModel):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


class Strict(BaseModel):
    """Our own bodies: an unknown field is a mistake."""

    model_config = ConfigDict(extra="forbid")


Name = Annotated[Text, Field(min_length=1, max_length=200)]
Time = str | float
"""ISO 8601, or Unix seconds."""


class MemoryFields(Strict):
    """What may be said of a memory beside its text."""

    pinned: bool | None = None
    event_at: float | None = None
    event_until: float | None = None
    metadata: dict[str, Any] | None = None
    tags: list[Text] | None = None
    importance: Annotated[float, Field(ge=0, le=1)] | None = None
    expires_at: float | None = None


class MemoryAdd(MemoryFields):
    text: str
    cube: str | None = None
    kind: str | None = None
    owner: Name | None = None
    author: Name | None = None
    agent: Name | None = None
    session: Name | None = None


class SaidMessage(Strict):
    """One message of a conversation, as OpenAI has it, with its time and speaker where they are known."""

    role: Literal["user", "assistant", "tool", "system"] = "user"
    content: Text
    name: Name | None = None
    time: Time | None = None
    metadata: dict[str, Any] = {}


class MessagesAdd(Strict):
    messages: Annotated[list[SaidMessage], Field(min_length=1, max_length=10_000)]
    cube: str | None = None
    session: Name | None = None
    owner: Name | None = None
    agent: Name | None = None
    tags: list[Text] = []
    metadata: dict[str, Any] = {}
    expires_at: float | None = None
    extractor: str | None = None
    wait: bool = True


class FeedbackAdd(Strict):
    text: Annotated[Text, Field(min_length=1, max_length=10_000)]
    cube: str | None = None
    memory_ids: Annotated[list[Name], Field(max_length=100)] = []
    corrected: Text | None = None
    at: Time | None = None


class MemoryChange(MemoryFields):
    text: str | None = None
    kind: str | None = None
    status: str | None = None


class MemorySearch(Strict):
    query: Annotated[Text, Field(min_length=1, max_length=10_000)]
    cube: str | list[str] | None = None
    top_k: Annotated[int, Field(ge=1, le=100)] = 5
    kinds: list[str] | None = None
    filter: dict[str, Any] | None = None
    at: Time | None = None
    hops: Annotated[int, Field(ge=0, le=2)] = 1
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    explain: bool = False


class MemoryList(Strict):
    cube: str | None = None
    kind: str | None = None
    status: str = "active"
    filter: dict[str, Any] | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 50
    after: str | None = None


class GrantAdd(Strict):
    principal: Name
    access: Literal["read", "write"] = "read"


class GroupSet(Strict):
    members: Annotated[list[Name], Field(max_length=10_000)]


class CubeAdd(Strict):
    name: str
    fidelity: Fidelity | None = None


class CubeChange(Strict):
    fidelity: Fidelity | None
