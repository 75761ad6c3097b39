"""What a RecallKV server may ask of a worker beside running the model (``worker_extension_cls``)."""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer import get_kv_transfer_group

from engine.vllm.connector import RecallKVConnector


class WorkerExtension:
    """Methods that ``collective_rpc`` finds by name on vLLM's workers."""

    model_runner: Any

    def recallkv_compose(self) -> str | None:
        """Make ready to move and repair sources. None, or why that cannot be done with this model."""
        return _connector().attach(self.model_runner)

    def recallkv_divergence(self, exact: str, other: str) -> tuple[float, float] | None:
        """Compare as ``Repairer.divergence`` does; ``exact`` is kept for further comparisons."""
        return _connector().worker.repairer.divergence(exact, other)

    def recallkv_forget_scores(self) -> None:
        """Let go of the logits of scored prompts."""
        _connector().worker.repairer.forget_scores()

    def recallkv_forget(self, keys: list[str]) -> None:
        """Drop segments from the host tier: their memory was deleted."""
        _connector().worker.forget(keys)

    def recallkv_preload(self, key: str) -> int:
        """Begin to read a segment into the host tier; its bytes here, 0 where there is nothing to do."""
        return _connector().worker.preload(key)

    def recallkv_drop_host_tier(self) -> None:
        """Empty the host tier once everything is written."""
        _connector().worker.drop_host_tier()


def _connector() -> RecallKVConnector:
    connector = get_kv_transfer_group()
    assert isinstance(connector, RecallKVConnector)
    return connector
