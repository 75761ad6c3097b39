"""Work in idle time."""

from __future__ import annotations

import logging
from collections.abc import Generator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class IdleTask:
    """Work that may wait: each step takes about as long as a chunk of a prompt."""

    steps: Generator[None, None, bool]
    future: Future[bool]

    def advance(self) -> bool:
        """Take a step; False after the last one."""
        if self.future.cancelled():
            self.steps.close()
            return False
        try:
            next(self.steps)
        except StopIteration as end:
            with suppress(InvalidStateError):  # cancelled in this very moment
                self.future.set_result(end.value)
            return False
        except Exception as error:
            # The worker's edge: a failed task is its owner's to hear of, and must not fail requests.
            log.exception("a task in idle time failed")
            with suppress(InvalidStateError):
                self.future.set_exception(error)
            return False
        return True

    def cancel(self) -> None:
        """Give it up."""
        self.steps.close()
        self.future.cancel()
