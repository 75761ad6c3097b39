"""What an engine can refuse.

EngineError
├── ContextTooLong      the prompt, or prompt + max_tokens, does not fit the model
├── ModelNotLoaded      there is no such model, device or dtype, or the model's files are damaged
├── UnsupportedModel    the model has a part that segments cannot be injected into
├── InvalidRequest      the request asks for what cannot be: an unknown function, a schema that cannot be followed
├── EngineClosed        the engine is shutting down or its worker has died
├── QueueFull           too many requests wait already
├── TooLargeForMemory   the request's keys and values would not fit the device, even alone
├── OutOfDeviceMemory   the device had no memory left for the request
└── NotScored           a segment that was to be measured went away meanwhile
"""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something; the name of its class where none does."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class EngineError(Exception):
    """Base of everything an engine raises on purpose."""


class ContextTooLong(EngineError):
    """The prompt and the tokens asked for do not fit into the model's context. Clients look for these words, which are
    OpenAI's; ``param`` names the field at fault where it is known."""

    def __init__(self, prompt_tokens: int, max_tokens: int | None, context: int, param: str | None = None) -> None:
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.context = context
        self.param = param
        if max_tokens is None or prompt_tokens >= context:
            told = f"your messages resulted in {prompt_tokens} tokens. Please reduce the length of the messages"
        else:
            told = (
                f"you requested {prompt_tokens + max_tokens} tokens ({prompt_tokens} in the messages, {max_tokens} in"
                " the completion). Please reduce the length of the messages or completion"
            )
        super().__init__(f"This model's maximum context length is {context} tokens. However, {told}.")


class ModelNotLoaded(EngineError):
    """There is no such model, device or dtype, or the model's files are damaged."""


class UnsupportedModel(EngineError):
    """The model has a part (sliding window, recurrent state, ...) that segments cannot be injected into."""


class InvalidRequest(EngineError):
    """The request asks for what cannot be: an unknown function, a schema that cannot be followed."""


class EngineClosed(EngineError):
    """The engine is shutting down, or its worker has died."""


class QueueFull(EngineError):
    """Too many requests are waiting; try again later."""


class TooLargeForMemory(EngineError):
    """The keys and values of the prompt and of the tokens asked for take more memory than the engine has for all."""

    def __init__(self, needed: int, budget: int) -> None:
        self.needed = needed
        self.budget = budget
        super().__init__(
            f"The keys and values of this request take {needed / 1e9:.2f} GB, and there are {budget / 1e9:.2f} GB for"
            " all of them. Please reduce the length of the messages, the tokens to complete, or n."
        )


class OutOfDeviceMemory(EngineError):
    """The device had no memory left for the request, although segments were evicted; try again later."""


class NotScored(EngineError):
    """A prompt has no scores: a segment that it was to be composed of was deleted or evicted meanwhile."""
