"""Bodies of OpenAI's routes, which ignore what they do not know, as OpenAI does."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from engine.base import ChatMessage, Fidelity, Sampling, Structured, ToolCall, Tools
from server.core.completing import CompletionOptions
from server.core.generation import AnswerOptions, RecallOptions
from server.http import refusals
from server.http.bodies import UNSUPPORTED, Body, Strict, fault
from server.http.schemas.fields import Schema, StopText, Text

MAX_CHOICES = 8
MAX_TOP_LOGPROBS = 20
MAX_PROMPTS = 256


class MemoryOptions(Strict):
    """The ``memory`` object of a request: which cubes, how, how many, or exactly which memories."""

    cube: str | list[str] | None = None
    mode: Literal["auto", "kv", "text", "off"] | None = None
    top_k: Annotated[int, Field(ge=0, le=64)] | None = None
    ids: Annotated[list[str], Field(max_length=256)] = []
    fidelity: Fidelity | None = None
    remember: bool = False
    session: Annotated[Text, Field(min_length=1, max_length=200)] | None = None

    @property
    def recall(self) -> RecallOptions:
        """Return what the core is asked for."""
        return RecallOptions(
            cubes=(self.cube,) if isinstance(self.cube, str) else None if self.cube is None else tuple(self.cube),
            mode=self.mode,
            top_k=self.top_k,
            ids=tuple(self.ids),
            fidelity=self.fidelity,
            remember=self.remember,
            session=self.session,
        )


class StreamOptions(Body):
    refused = refusals.STREAM_OPTIONS

    include_usage: bool = False


class JsonSchema(Body):
    name: Text = "answer"
    schema_: Schema = Field(alias="schema")


class ResponseFormat(Body):
    """OpenAI's; a schema may also stand beside the type, as other servers have it."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    beside: Annotated[Schema | None, Field(alias="schema")] = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        given = self.json_schema is not None, self.beside is not None
        if not any(given) if self.type == "json_schema" else given[0]:
            raise ValueError("json_schema comes with the type json_schema, and only with it")
        if all(given) or (self.type == "text" and given[1]):
            raise fault("schema", "give one schema, in json_schema")
        return self

    @property
    def structured(self) -> Structured | None:
        """Give what the engine is asked for."""
        if self.type == "text":
            return None
        return Structured(self.beside if self.json_schema is None else self.json_schema.schema_)


class StructuredOutputs(Body):
    """vLLM's, as far as it says what ``response_format`` can say."""

    refused = refusals.STRUCTURED_OUTPUTS

    schema_: Annotated[Schema | None, Field(alias="json")] = None
    json_object: bool = False


class SamplingFields(Body):
    """Fields that chat and completions have in common. ``prompt_field`` names what holds the prompt, for errors about
    it."""

    refused = refusals.SAMPLING
    prompt_field: ClassVar[str | None] = None

    model: str
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
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
    response_format: ResponseFormat | None = None
    guided_json: Schema | None = None
    json_schema: Schema | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="after")
    def _one_structure(self) -> SamplingFields:
        if len(names := list(self._structures())) > 1:
            raise fault(names[1], f"give one of {names[0]} and {names[1]}")
        return self

    def _structures(self) -> dict[str, Structured]:
        """Return each structure that is asked for, by the field that asks."""
        found: dict[str, Structured | None] = {
            "response_format": None if self.response_format is None else self.response_format.structured,
            "guided_json": None if self.guided_json is None else Structured(self.guided_json),
            "json_schema": None if self.json_schema is None else Structured(self.json_schema),
        }
        asked = self.structured_outputs
        if asked is not None and (asked.json_object or asked.schema_ is not None):
            found["structured_outputs"] = Structured(asked.schema_)
        return {name: structured for name, structured in found.items() if structured is not None}

    @property
    def structured(self) -> tuple[str, Structured] | None:
        """Return the structure of the answer, with the name of the field that asks for it."""
        return next(iter(self._structures().items()), None)

    @field_validator("seed")
    @classmethod
    def _unsigned(cls, seed: int | None) -> int | None:
        return None if seed is None else seed % 2**63

    @property
    def length_field(self) -> str:
        """Return the name of the field that says how long the answer may be, for errors about it."""
        return "max_tokens"

    def answer(
        self, request_id: str, max_tokens: int | None, logprobs: int | None = None, tools: Tools | None = None
    ) -> AnswerOptions:
        """Return what the core is asked for."""
        return AnswerOptions(
            model=self.model,
            request_id=request_id,
            sampling=self._sampling(logprobs),
            max_tokens=max_tokens,
            n=self.n,
            tools=tools,
            prompt_field=self.prompt_field,
            length_field=self.length_field,
            structured_field=None if self.structured is None else self.structured[0],
        )

    def _sampling(self, logprobs: int | None) -> Sampling:
        """Return the sampling as the engine takes it. Unset fields get OpenAI's defaults; ``top_p`` 0 means the
        likeliest token."""
        likeliest = self.top_p == 0
        return Sampling(
            min_tokens=self.min_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None or likeliest else self.top_p,
            top_k=1 if likeliest else max(0, self.top_k or 0),
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
            structured=None if self.structured is None else self.structured[1],
        )


class TextPart(Body):
    type: Literal["text"]
    text: Text

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, values: Any) -> Any:
        kind = values.get("type") if isinstance(values, dict) else None
        if isinstance(kind, str) and kind != "text":
            shown = kind if re.fullmatch(r"[a-z_]{1,40}", kind) else "another type"
            raise fault("", f"parts of type {shown} are not supported; this server takes text", UNSUPPORTED)
        return values


class FunctionCall(Body):
    name: Text
    arguments: Text = "{}"


class MessageToolCall(Body):
    id: Text
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Body):
    refused = refusals.MESSAGE

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    tool_calls: Annotated[list[MessageToolCall], Field(max_length=128)] = []
    tool_call_id: Text | None = None

    @field_validator("role", mode="before")
    @classmethod
    def _no_function(cls, role: Any) -> Any:
        if role == "function":
            raise fault(
                "", "the role function is not supported; send the result with role tool and tool_call_id", UNSUPPORTED
            )
        return role

    @property
    def text(self) -> str:
        """Return the text of all parts."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    @property
    def as_said(self) -> ChatMessage:
        """Return the message as the engine takes it."""
        calls = (
            ToolCall(i, call.id, call.function.name, call.function.arguments) for i, call in enumerate(self.tool_calls)
        )
        role = "system" if self.role == "developer" else self.role
        return ChatMessage(role, self.text, tuple(calls), self.tool_call_id)


class FunctionSpec(Body):
    model_config = ConfigDict(extra="allow")

    name: Annotated[Text, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    parameters: dict[str, Any] | None = None


class ToolSpec(Body):
    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(Body):
    name: Text


class NamedTool(Body):
    type: Literal["function"] = "function"
    function: NamedFunction


class ChatRequest(SamplingFields):
    prompt_field = "messages"

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Annotated[list[ToolSpec], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    memory: MemoryOptions | None = None

    @model_validator(mode="after")
    def _supported(self) -> ChatRequest:
        if self.tools is None and self.tool_choice not in (None, "none"):
            raise fault("tool_choice", "needs tools")
        if self.top_logprobs and not self.logprobs:
            raise fault("top_logprobs", "needs logprobs: true")
        return self

    @property
    def length_field(self) -> str:
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    def chat_answer(self, request_id: str) -> AnswerOptions:
        """Return what the core is asked for."""
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self.answer(request_id, self.max_completion_tokens or self.max_tokens, logprobs, self._tools)

    @property
    def _tools(self) -> Tools | None:
        if not self.tools or self.tool_choice == "none":
            return None
        choice = self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else self.tool_choice
        return Tools(tuple(tool.model_dump(exclude_none=True) for tool in self.tools), choice or "auto")


def _kind_of_prompt(prompt: Any) -> str:
    if not isinstance(prompt, list):
        return "text"
    first = prompt[0] if prompt else None
    return "token_lists" if isinstance(first, list) else "texts" if isinstance(first, str) else "tokens"


_TokenIds = list[Annotated[int, Field(strict=True, ge=0)]]
_Some = Field(max_length=MAX_PROMPTS)
_Prompt = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[_TokenIds, Tag("tokens")]
    | Annotated[list[Text], _Some, Tag("texts")]
    | Annotated[list[_TokenIds], _Some, Tag("token_lists")],
    Discriminator(_kind_of_prompt),
]


class CompletionRequest(SamplingFields):
    refused = refusals.COMPLETION
    prompt_field = "prompt"

    prompt: _Prompt
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool = False
    memory: MemoryOptions | None = None

    def options(self, request_id: str) -> CompletionOptions:
        """Return what the core is asked for."""
        return CompletionOptions(
            prompts=self._prompts,
            answer=self.answer(request_id, self.max_tokens, self.logprobs),
            in_list=isinstance(self.prompt, list),
            echo=self.echo,
            recall=None if self.memory is None else self.memory.recall,
        )

    @property
    def _prompts(self) -> tuple[tuple[str, str | list[int]], ...]:
        """Return each prompt with its place in the body."""
        prompt: Any = self.prompt
        if _kind_of_prompt(prompt) in ("text", "tokens"):
            return (("prompt", prompt),)
        return tuple((f"prompt.{i}", one) for i, one in enumerate(prompt))


MAX_EMBEDDED = 2048


def _embedded_texts(given: Any) -> Any:
    """Return one text or several as a list."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list):
        raise fault("", "it must be a text or a list of texts")
    if not 1 <= len(texts) <= MAX_EMBEDDED:
        raise fault("", f"{len(texts)} texts were given; from 1 to {MAX_EMBEDDED} are taken at once")
    if all(isinstance(item, int | list) for item in texts):
        raise fault("", "token arrays are not supported: send text")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise fault("", f"text {i} is no text")
        if not text:
            raise fault("", f"text {i} is empty")
    return texts


class EmbeddingRequest(Body):
    model: str | None = None
    input: Annotated[list[str], BeforeValidator(_embedded_texts, json_schema_input_type=str | list[str])]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    input_type: Literal["query", "passage"] | None = None


class TokenizeRequest(Body):
    model: str | None = None
    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise fault("prompt", "give either prompt or messages")
        return self


class DetokenizeRequest(Body):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]
