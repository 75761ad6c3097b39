"""What has happened in a worker and was not reported to vLLM yet; filled by several threads."""

from __future__ import annotations

import threading

from engine.vllm.plan import WorkerReport


class Outbox:
    """All is read and changed under ``lock``; ``arrived`` is notified when there may be something to report.

    ``loading``: loads under way; ``queued_bytes``: of segments that are not written yet.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.arrived = threading.Condition(self.lock)
        self.report = WorkerReport()
        self.received: set[str] = set()
        self.invalid_blocks: set[int] = set()
        self.loading = 0
        self.queued_bytes = 0

    @property
    def is_empty(self) -> bool:
        return not (self.received or self.report != WorkerReport())

    @property
    def is_expecting(self) -> bool:
        """Say whether something will arrive without being asked for."""
        return bool(self.loading or self.queued_bytes)

    def take_received(self, wait_s: float | None) -> set[str]:
        """Return the requests whose load has ended since the last call, after waiting for one for ``wait_s`` where none
        has but something is expected."""
        with self.arrived:
            if wait_s is not None and self.is_expecting and self.is_empty:
                self.arrived.wait(wait_s)
            done, self.received = self.received, set()
            return done

    def take_invalid_blocks(self) -> set[int]:
        with self.lock:
            blocks, self.invalid_blocks = self.invalid_blocks, set()
            return blocks

    def take_report(self) -> WorkerReport:
        with self.lock:
            report, self.report = self.report, WorkerReport()
            return report
