"""Errors of the core, apart from the named errors of memory and engine.

CoreError
├── ModelUnknown     no model of that name is served
├── Unsupported      this engine, or this kind of request, does not do that
├── InvalidValue     a value that only the loaded model can refuse
├── InvalidMessages  the model's chat template refuses the messages
└── PromptTooLong    one of several prompts leaves no room for its answer
"""

from __future__ import annotations


class CoreError(Exception):
    """Base of everything the core raises on purpose; ``param`` names the field at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class ModelUnknown(CoreError):
    """No model of that name is served."""


class Unsupported(CoreError):
    """This engine, or this kind of request, does not do that."""


class InvalidValue(CoreError):
    """A value that only the loaded model can refuse."""


class InvalidMessages(CoreError):
    """The model's chat template refuses the messages."""


class PromptTooLong(CoreError):
    """One of several prompts leaves no room for its answer."""
