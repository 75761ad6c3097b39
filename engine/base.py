"""The contract between those who ask for tokens and those who run the model.

A request travels as token ids in *pieces* (header, one per memory, turns), because the piece is the unit of
reuse: each becomes one chained segment. The engine answers with a stream of events: one ``Started`` when the
first token is known (it says where every piece's keys and values came from), then ``Delta`` after ``Delta``,
the last of each choice with a ``finish_reason``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kvcache import Fingerprint, Repair

if TYPE_CHECKING:  # a bare machine, to measure on, may lack it
    from prometheus_client.core import Metric

PieceKind = Literal["header", "memory", "turns"]
Source = Literal["resident", "host", "disk", "computed"]
Fidelity = Literal["exact", "high", "fast"]
FIDELITIES: tuple[Fidelity, ...] = ("exact", "high", "fast")
FinishReason = Literal["stop", "length", "abort", "tool_calls"]
Feature = Literal["structured", "tools"]


@dataclass(frozen=True)
class Piece:
    """A run of prompt tokens that is reused, or computed, as one.

    ``label`` names the memory whose text it holds (None for header and turns); segments made from the piece
    carry it, so that deleting the memory finds them. Only ``storable`` pieces are stored after computing; turns with
    memories behind them are that, and are stored where the request says ``keep_turns``.
    """

    kind: PieceKind
    token_ids: tuple[int, ...]
    label: str | None = None
    storable: bool = False


@dataclass(frozen=True)
class Prompt:
    """The whole prompt: the concatenation of its pieces' tokens is what the model sees, in every mode."""

    pieces: tuple[Piece, ...]

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token for piece in self.pieces for token in piece.token_ids)

    @property
    def n_tokens(self) -> int:
        return sum(len(piece.token_ids) for piece in self.pieces)

    @property
    def header(self) -> Piece | None:
        """The piece before the memories of the system message; None where no memory stands there."""
        return self.pieces[0] if self.pieces and self.pieces[0].kind == "header" else None

    @property
    def turns(self) -> Piece:
        """The piece behind all memories. The prompt must not be empty."""
        return self.pieces[-1]

    def memories(self) -> tuple[Piece, ...]:
        """Return the pieces that hold a memory each, in prompt order."""
        return tuple(piece for piece in self.pieces if piece.kind == "memory")


@dataclass(frozen=True)
class Structured:
    """The answer is JSON: of this JSON schema, or any object where it is None."""

    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class Sampling:
    """The way tokens are chosen. Names and ranges are OpenAI's and vLLM's; temperature 0 is greedy, with
    ``max_tokens`` 0 none is chosen."""

    max_tokens: int = 256
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    """None: no logprobs; k >= 0: the chosen token's logprob and the k most likely ones."""
    structured: Structured | None = None


@dataclass(frozen=True)
class Tools:
    """Functions that the model may call, as OpenAI's ``tools`` has them, and which: ``auto``, ``required`` (one of
    them), or the name of one."""

    functions: tuple[dict[str, Any], ...]
    choice: str = "auto"


@dataclass(frozen=True)
class ToolCall:
    """A call of a function, or the next part of it: ``id`` and ``name`` come with the first part, ``arguments`` (JSON)
    in pieces."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True)
class GenerateRequest:
    """One request to an engine.

    ``salt`` separates tenants: segments are only ever shared between requests with the same salt.
    ``use_segments`` False means a full prefill of the same tokens, with nothing looked up or stored.
    ``fidelity`` below ``exact`` lets memories that have no chained segment behind this prefix be composed from
    standalone ones and repaired, as ``repair`` says (None: the engine's setting for that fidelity).
    ``keep_turns``: the turns and the answer are stored behind the memories, for the conversation's next request (an
    engine whose own cache does that may ignore it).
    ``score_last``: the number of the prompt's last tokens whose log-likelihoods are wanted, with ``sampling.logprobs``
    rivals each. They are computed, whatever is stored of them.
    """

    request_id: str
    prompt: Prompt
    sampling: Sampling = Sampling()
    n: int = 1
    salt: str = ""
    use_segments: bool = True
    fidelity: Fidelity = "exact"
    repair: Repair | None = None
    tools: Tools | None = None
    keep_turns: bool = False
    score_last: int = 0

    @property
    def needed_from(self) -> int:
        """Position of the first prompt token that must be computed, because the distribution behind it is asked for."""
        return max(0, self.prompt.n_tokens - self.score_last - 1)


@dataclass(frozen=True)
class PageRequest:
    """A page to be built: ``parts`` behind the header and, so that they are not computed as if nothing stood before
    them, ``lead`` (other memories). ``context`` are yet other memories: the page's certificate is made behind them."""

    header: Piece
    parts: tuple[Piece, ...]
    lead: tuple[Piece, ...] = ()
    context: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its natural-log probability under the unmodified distribution, and its rivals.

    ``bytes`` are what it adds to a text: a part of a character, maybe, and nothing for special tokens. ``text`` shows
    them, or the special token's name. ``logprob`` is None where no token stands before it.
    """

    token_id: int
    text: str
    logprob: float | None
    bytes: bytes = b""
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class PieceReport:
    """The origin of one piece's keys and values. ``load_ms`` is the time to bring it to the device.

    ``fidelity`` is exact for what was computed or injected as a chain; composed pieces have the request's, and
    ``recomputed`` of their tokens were repaired.
    """

    source: Source
    n_tokens: int
    load_ms: float = 0.0
    fidelity: Fidelity = "exact"
    recomputed: int = 0


@dataclass(frozen=True)
class Started:
    """The first token is known. ``pieces`` is parallel to the prompt's pieces; times are in seconds; ``scores`` are of
    the prompt's last tokens, as many as were asked for."""

    pieces: tuple[PieceReport, ...]
    prompt_tokens: int
    cached_tokens: int
    queue_s: float
    load_s: float
    prefill_s: float
    scores: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Delta:
    """New text of choice ``index``; ``finish_reason`` is set on its last one. ``token_ids`` may be empty
    (text held back while it could begin a stop string) and text may be empty (half a character).

    ``logprobs`` are of the tokens that are in the text (see ``engine.listing``), ``ended_by`` of the one that ended it
    without being part of it.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    ended_by: TokenLogprob | None = None


Event = Started | Delta


@dataclass(frozen=True)
class Capacity:
    """The engine's limits, and its load now. ``parameters``: how many its model has; None where it is not known."""

    context: int
    max_running: int
    running: int
    waiting: int
    parameters: int | None = None


@dataclass(frozen=True)
class MemoryText:
    """A memory as the renderer sees it: ``label`` is its id."""

    label: str
    text: str


@dataclass(frozen=True)
class ChatMessage:
    """One turn, as the chat template sees it. ``tool_calls`` are those an assistant made, ``tool_call_id`` says which
    of them a tool's turn answers. ``memories`` are rendered at the head of its content."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    memories: tuple[MemoryText, ...] = ()


class Renderer(Protocol):
    """Turns messages and memories into prompts."""

    def render(
        self, messages: Sequence[ChatMessage], memories: Sequence[MemoryText] = (), tools: Tools | None = None
    ) -> Prompt:
        """Render chat messages and memories, in the order given, as a prompt ready for generation. ``memories`` stand
        in the system message, those of a message at its head.

        A pure function of its arguments: the same text in every mode. Raises ``ValueError`` when the model's
        chat template refuses the messages.
        """
        ...


class Prompts(Renderer, Protocol):
    """The way from text to a model's tokens and back. Pure functions; any thread may call them."""

    @property
    def vocabulary_size(self) -> int: ...

    def render_completion(
        self, token_ids: Sequence[int], memories: Sequence[MemoryText] = (), *, begin: Sequence[int] = ()
    ) -> Prompt:
        """Render tokens to be gone on with, and memories before them. ``begin`` are special tokens that stand before
        both."""
        ...

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the tokens of a text."""
        ...

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones by their names."""
        ...

    def token_text(self, token_id: int) -> str:
        """Return the token's own text: its bytes, where they are some, or a special token's name."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Return what the token adds to a text, behind others: a part of a character, maybe; nothing for special
        tokens."""
        ...


class Engine(Protocol):
    """Runs one model. All methods may be called from any task of the event loop.

    What is stored of its keys and values, the catalogue says (``kvcache.Catalogue``), which whoever opens an engine
    hands to those who ask.
    """

    @property
    def fingerprint(self) -> Fingerprint: ...

    @property
    def features(self) -> frozenset[Feature]:
        """The engine's abilities beyond plain text."""
        ...

    @property
    def prompts(self) -> Prompts: ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Run one request and give out its events. Closing the iterator aborts the request within one step.

        Raises ``ContextTooLong``, ``QueueFull`` or ``EngineClosed`` before the first event.
        """
        ...

    async def preload(self, key: str) -> int:
        """Bring a segment to the fastest memory tier that it can wait in; return the bytes moved, 0 for none. Raises
        ``kvcache.ReadInterrupted`` where a request came meanwhile and it is to be tried again later."""
        ...

    async def build_page(self, request: PageRequest, salt: str = "") -> bool:
        """Compute, certify and store a page while nothing else runs. False when it is not stored: the model's keys
        cannot be moved, or the page was removed meanwhile, with a memory of it or for room."""
        ...

    async def build(self, prompt: Prompt, salt: str = "") -> int:
        """Compute and store the kept pieces of ``prompt`` as chained segments while nothing else runs; return
        how many tokens they hold."""
        ...

    async def forget(self, labels: Sequence[str]) -> int:
        """Remove every segment that depends on these memories' texts, from every tier, and refuse them from now on;
        return how many there were."""
        ...

    async def forget_conversations(self, salt: str) -> int:
        """Remove the turns of conversations that were kept, from every tier, and all chains with them; return how many
        segments there were."""
        ...

    def prefill_s(self, n_tokens: int, behind: int) -> float | None:
        """Return the seconds that computing ``n_tokens`` behind ``behind`` others takes here; None where it was not
        measured."""
        ...

    def capacity(self) -> Capacity:
        """Return what can be taken in, and what is being done now."""
        ...

    def metrics(self) -> list[Metric]:
        """Return Prometheus metrics of the engine's own, for the server's page."""
        ...

    async def close(self, drain_s: float = 0.0) -> None:
        """Stop taking requests, let running ones go on for up to ``drain_s`` seconds, then free the model."""
        ...
