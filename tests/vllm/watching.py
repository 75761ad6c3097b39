"""A worker whose passes can be watched, and made to fail."""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer import get_kv_transfer_group

from engine.vllm.extension import WorkerExtension


class WatchingExtension(WorkerExtension):
    """Methods that ``collective_rpc`` finds by name, beside the engine's own."""

    def watch_passes(self) -> None:
        """Count the sequences of each pass from now on, and let passes through."""
        repairer = _repairer()
        counts: list[int] = []
        describe = type(repairer)._metadata

        def counted(common: Any) -> Any:
            counts.append(common.num_reqs)
            return describe(repairer, common)

        repairer._metadata, repairer.counts = counted, counts

    def watched_passes(self) -> list[int]:
        """Sequences of each pass since ``watch_passes``."""
        counts: list[int] = _repairer().counts
        return counts

    def break_passes(self, after: int) -> None:
        """Have every pass fail but the first ``after``."""
        repairer = _repairer()
        describe, left = type(repairer)._metadata, [after]

        def failing(common: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise RuntimeError("the back end's buffers are too small")
            return describe(repairer, common)

        repairer._metadata = failing


def _repairer() -> Any:
    return get_kv_transfer_group().worker.repairer
