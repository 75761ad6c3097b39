"""A request on its way through the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.base import Delta, Event, FinishReason, GenerateRequest, PieceReport, Source, Started, TokenLogprob
from engine.listing import Listing
from engine.placement import SOURCES, MissingPiece, Placement, chain_end, missing_pieces, slowest
from engine.transformers.attention.sequence_kv import SequenceKV
from engine.transformers.composition import Composition
from engine.transformers.loading import LoadedModel
from engine.transformers.sampler import Sampler
from engine.transformers.text import TextStream
from engine.vocabulary import Vocabulary
from kvcache import Entry, Loaded

Sink = Callable[[Event | Exception | None], None]
"""Where a request's events go: events, then None at the end or an exception."""


@dataclass(eq=False)
class Choice:
    """One of the ``n`` answers to a request, while it is being generated."""

    index: int
    kv: SequenceKV
    sampler: Sampler
    text: TextStream
    listing: Listing | None = None
    """None where no log-probabilities are wanted."""
    token_ids: list[int] = field(default_factory=list)
    finished: bool = False

    @property
    def last_token(self) -> int:
        """Return the token that the next step feeds: its keys and values are not there yet."""
        return self.token_ids[-1]

    def accept(self, token_id: int, logprob: TokenLogprob | None, group: Group, model: LoadedModel) -> Delta:
        """Take a token in and say what to send. ``logprob`` is None where no log-probabilities are wanted."""
        sampling = group.request.sampling
        self.token_ids.append(token_id)
        self.sampler.observe(token_id)
        ended = token_id in model.eos_token_ids and not sampling.ignore_eos
        ended = ended or token_id in sampling.stop_token_ids
        shown = "" if ended else self.text.push(token_id)
        reason: FinishReason | None = None
        if ended or self.text.stopped:
            reason = "stop"
        elif len(self.token_ids) >= sampling.max_tokens:
            reason = "length"
        if reason is not None:
            self.finished = True
            shown += self.text.flush()
        listed = self._listed(None if ended else logprob, shown, reason)
        return Delta(self.index, shown, (token_id,), listed, reason, ended_by=logprob if ended else None)

    def end(self) -> Delta:
        """Return the last event of a choice that no more tokens are chosen for."""
        self.finished = True
        return Delta(self.index, "", finish_reason="length")

    def _listed(self, token: TokenLogprob | None, shown: str, reason: FinishReason | None) -> tuple[TokenLogprob, ...]:
        if self.listing is None:
            return ()
        if token is not None:
            self.listing.push(token)
        return self.listing.show(shown) + (() if reason is None else self.listing.end(reason))


@dataclass(eq=False)
class Group:
    """A request with its prompt's progress and its choices.

    ``background`` requests only compute and store the prompt's pieces, and only when nothing else runs.
    """

    request: GenerateRequest
    sink: Sink
    root: str
    background: bool = False
    token_ids: tuple[int, ...] = ()
    arrived: float = field(default_factory=time.perf_counter)
    admitted: float = 0.0
    load_s: float = 0.0
    loads: list[tuple[Entry, Loaded]] = field(default_factory=list)
    """What was brought to the device for it; copies may still be under way."""
    reserved: int = 0
    """Bytes on the device that are set aside for its keys and values."""
    kv: SequenceKV | None = None
    matched: list[Entry] = field(default_factory=list)
    chain: list[tuple[Entry, Loaded]] = field(default_factory=list)
    composition: Composition | None = None
    pinned: list[str] = field(default_factory=list)
    todo: Sequence[int] | None = None
    """Positions of the prompt to compute, ascending; None until that is settled."""
    done: int = 0
    """How many of ``todo`` have been computed."""
    choices: list[Choice] = field(default_factory=list)
    scores: list[TokenLogprob] = field(default_factory=list)
    """Of the prompt's last tokens, as far as they have been computed."""
    scored: int = 0
    """How many of ``scores`` are of passes that are through."""
    aborted: bool = False

    def __post_init__(self) -> None:
        self.token_ids = self.request.prompt.token_ids

    @property
    def started_kv(self) -> SequenceKV:
        """Return its keys and values, once it has started."""
        assert self.kv is not None, "only started groups are worked on"
        return self.kv

    @property
    def remaining(self) -> int:
        """Count the prompt tokens still to compute."""
        return len(self.todo) - self.done if self.todo is not None else len(self.token_ids)

    def next_positions(self, n: int) -> Sequence[int]:
        """Return the positions of the next ``n`` tokens to compute."""
        assert self.todo is not None, "only settled prompts are worked on"
        return self.todo[self.done : self.done + n]

    @property
    def chained_tokens(self) -> int:
        """Count the prompt tokens that came from chained segments. Those that must be computed, one at least, never
        do."""
        return min(sum(entry.n_tokens for entry, _ in self.chain), self.request.needed_from)

    @property
    def cached_tokens(self) -> int:
        """Count the prompt tokens that were not computed."""
        return len(self.token_ids) - len(self.todo) if self.todo is not None else 0

    @property
    def expected_tokens(self) -> int:
        """Count the tokens whose keys and values there will be at most, all choices together."""
        return len(self.token_ids) + self.request.n * self.request.sampling.max_tokens

    @property
    def held_tokens(self) -> int:
        """Count the tokens whose keys and values are there, and those of the prompt that are still to come."""
        own = len(self.token_ids) if self.kv is None else max(len(self.token_ids), self.kv.n_tokens)
        return max(own, sum(choice.kv.n_tokens for choice in self.choices))

    def settle_loads(self) -> None:
        """Set ``load_s`` to when the last copy had ended. Waits for them: to be called when a pass over them is
        through. Copies to the device are made one behind the other."""
        begin = ended = self.admitted
        for copied in sorted((one.copied for _, one in self.loads if one.copied is not None), key=lambda c: c.issued):
            ended = max(ended, copied.issued) + copied.seconds
        self.load_s = max(self.load_s, ended - begin)

    def let_go(self) -> None:
        """Hold no keys and values any more; whoever holds the request must not hold memory with it."""
        self.kv = self.composition = None
        self.chain.clear()
        self.loads.clear()
        self.choices.clear()

    @property
    def finished(self) -> bool:
        return self.aborted or (bool(self.choices) and all(choice.finished for choice in self.choices))

    def begin_choices(self, model: LoadedModel, vocabulary: Vocabulary) -> None:
        """Make the choices, now that the prompt is computed: all, or none where there is no memory for them."""
        request, sampling = self.request, self.request.sampling
        kv, choices = self.started_kv, []
        for index in range(request.n):
            own = kv if request.n == 1 else kv.fork(sampling.max_tokens)
            sampler = Sampler(sampling, index, self.token_ids, model.eos_token_ids)
            text = TextStream(model.tokenizer, sampling.stop)
            listing = None if sampling.logprobs is None else Listing(vocabulary)
            choices.append(Choice(index, own, sampler, text, listing))
        self.choices = choices

    def started(self) -> Started:
        """Say what there is to say when the first token is known."""
        return Started(
            pieces=self.reports(),
            prompt_tokens=len(self.token_ids),
            cached_tokens=self.cached_tokens,
            queue_s=self.admitted - self.arrived,
            load_s=self.load_s,
            prefill_s=max(0.0, time.perf_counter() - self.admitted - self.load_s),
            scores=tuple(self.scores),
        )

    def reports(self) -> tuple[PieceReport, ...]:
        """Report where each piece of the prompt came from."""
        composed = {p.piece: p for p in self.composition.placements} if self.composition is not None else {}
        reports = []
        begin = 0
        for index, piece in enumerate(self.request.prompt.pieces):
            end = begin + len(piece.token_ids)
            placement = composed.get(index)
            reports.append(self._chained(begin, end) if placement is None else self._composed(placement))
            begin = end
        return tuple(reports)

    def _composed(self, placement: Placement) -> PieceReport:
        assert placement.loaded is not None
        assert self.composition is not None
        tier = SOURCES[placement.loaded.tier]
        recomputed = self.composition.n_recomputed(placement.span)
        load_ms = placement.loaded.load_ms
        return PieceReport(tier, len(placement.span), load_ms, self.composition.fidelity, recomputed)

    def _chained(self, begin: int, end: int) -> PieceReport:
        over = [(e, loaded) for e, loaded in self.chain if e.start < end and e.start + e.n_tokens > begin]
        sources: list[Source] = [SOURCES[loaded.tier] for _, loaded in over]
        if end > self.chained_tokens or not sources:
            sources.append("computed")
        load_ms = sum(loaded.load_ms for entry, loaded in over if begin <= entry.start)
        return PieceReport(slowest(sources), end - begin, load_ms)

    def missing_pieces(self) -> list[MissingPiece]:
        """Return kept pieces that have no segment yet."""
        composed = {p.piece for p in self.composition.placements} if self.composition is not None else set()
        chain = (entry for entry, _ in self.chain)
        return missing_pieces(
            self.request.prompt, self.root, chain, composed, keep_turns=self.request.keep_turns or self.background
        )

    def session_pieces(self) -> list[MissingPiece]:
        """Return what the conversation's next request will find of this one beside the kept pieces: the turns behind
        them, and the answer. Nothing where something was composed, because what was computed behind that is not
        exact."""
        *before, turns = self.request.prompt.pieces
        if self.composition is not None or turns.label is not None:
            return []
        parent, done = chain_end(self.root, (entry for entry, _ in self.chain))
        if missing := self.missing_pieces():
            parent, done = missing[-1].key(self.token_ids), missing[-1].end
        if done < sum(len(piece.token_ids) for piece in before):  # a memory stands where nothing may be stored
            return []
        pieces = []
        for end in (len(self.token_ids), len(self.fed_tokens)):
            if end > done:
                pieces.append(MissingPiece(parent, done, end, session=True))
                parent, done = pieces[-1].key(self.fed_tokens), end
        return pieces

    @property
    def fed_tokens(self) -> tuple[int, ...]:
        """Return the tokens whose keys and values are there, once the prompt is done: its own and those of the first
        choice but the last, which was never fed."""
        answer = self.choices[0].token_ids[:-1] if self.choices else ()
        return (*self.token_ids, *answer)
