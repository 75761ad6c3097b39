"""RecallKV's connector for vLLM.

Named in ``--kv-transfer-config`` as ``{"kv_connector": "RecallKVConnector", "kv_connector_module_path":
"engine.vllm.connector", "kv_role": "kv_both", "kv_load_failure_policy": "recompute"}``. vLLM makes one instance in its
scheduler and one in each worker; each does its half (``schedule``, ``worker``).

Loads are asynchronous. Saves need no hook in the layers: a segment is copied out of its blocks at the end of the step
that computed its last token, all layers at once, so full CUDA graphs stay possible.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

from engine.vllm.metrics import ConnectorStats, PromMetrics
from engine.vllm.paged import PagedCache, packing_of
from engine.vllm.plan import Orders, WorkerReport
from engine.vllm.repair import Repairer, refusal, rotation_of_vllm
from engine.vllm.schedule import SchedulerSide
from engine.vllm.settings import ConnectorSettings
from engine.vllm.streams import streams_of
from engine.vllm.worker import WorkerSide
from kvcache import Fingerprint, UnsupportedCache, UnsupportedRotation
from kvcache.shard import Shard


class RecallKVConnector(KVConnectorBase_V1):
    """Both halves of the connector; which one it is, ``role`` says. Raises ``UnsupportedCache`` for models whose
    keys and values are not plain attention over all tokens."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        _refuse_unsupported(vllm_config, kv_cache_config)
        self._settings = ConnectorSettings(**self._kv_transfer_config.kv_connector_extra_config)
        self._fingerprint: Fingerprint = self._settings.fingerprint_of(vllm_config.model_config)
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        self._cache: PagedCache | None = None
        self._layer_names: list[str] = []
        if role == KVConnectorRole.SCHEDULER:
            self._scheduler = SchedulerSide(
                self._settings,
                self._fingerprint,
                ranks=vllm_config.parallel_config.world_size,
            )

    # A lost save is a later miss, not a lost answer.
    @property
    def requires_kv_delivery(self) -> bool:
        return False

    @property
    def scheduler(self) -> SchedulerSide:
        assert self._scheduler is not None, "called on the worker's instance"
        return self._scheduler

    @property
    def worker(self) -> WorkerSide:
        assert self._worker is not None, "called before register_kv_caches, or on the scheduler's instance"
        return self._worker

    # -- scheduler -------------------------------------------------------------------------------------------

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        return self.scheduler.matched(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        self.scheduler.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return self.scheduler.orders(scheduler_output, self._blocks_of)

    def update_connector_output(self, connector_output: Any) -> None:
        report = connector_output.kv_connector_worker_meta
        if isinstance(report, WorkerReport):
            self.scheduler.take_in(report, self._blocks_of)

    def has_pending_push_work(self) -> bool:
        # Keeps the engine stepping until the workers have said that the last segments are written.
        return self.scheduler.is_writing

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        self.scheduler.finished(request.request_id)
        return False, None

    def _blocks_of(self, request_id: str) -> list[int]:
        assert self._kv_cache_manager is not None, "vLLM binds its cache manager before the first step"
        blocks: list[int] = self._kv_cache_manager.get_block_ids(request_id)[0]
        return blocks

    # -- worker ----------------------------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        from vllm.model_executor.models.utils import extract_layer_index

        names = sorted(kv_caches, key=extract_layer_index)
        layers = [kv_caches[name] for name in names]
        _refuse_split_blocks(layers[0], self._kv_cache_config)
        attention = self._vllm_config.compilation_config.static_forward_context[names[0]]

        def write(keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
            attention.impl.do_kv_cache_update(attention, keys, values, layers[0], slots)

        cache = PagedCache(layers, packing_of(layers[0], write))
        cache.touch()
        self._cache, self._layer_names = cache, names
        self._worker = WorkerSide(
            self._settings.folder,
            self._fingerprint,
            cache,
            self._shard(names, layers[0].shape[1]),
            host_bytes=int(self._settings.host_gb * 1e9),
            codec=self._settings.codec,
            fsync=self._settings.fsync,
        )

    def _shard(self, names: list[str], heads: int) -> Shard:
        from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
        from vllm.model_executor.models.utils import extract_layer_index

        layout = self._fingerprint.layout
        rank, world = get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
        own = Shard.of_rank(layout.layers, layout.kv_heads, rank, world)
        first = extract_layer_index(names[0])
        shard = Shard((first, first + len(names)), own.heads, own.of)
        if shard.heads[1] - shard.heads[0] != heads:
            raise UnsupportedCache(f"rank {rank} of {world} holds {heads} heads of {layout.kv_heads}")
        return shard

    def attach(self, runner: Any) -> str | None:
        """Let sources be moved and repaired with this model runner; None, or why it cannot be."""
        assert self._cache is not None, "called before register_kv_caches"
        try:
            reason = refusal(runner)
            if reason is not None:
                return reason
            repairer = Repairer(runner, self._cache, self._layer_names, streams_of(self._cache.device))
            self.worker.can_compose(rotation_of_vllm(runner.model), repairer)
        except (UnsupportedRotation, AttributeError) as error:
            return str(error)
        return None

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        self.worker.start(self._orders)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Do nothing: a request runs when its load has ended."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Do nothing: see the module's text."""

    def wait_for_save(self) -> None:
        self.worker.save(self._orders)
        # Behind the step's own pass, always: ours rewrites what the attention back ends keep for the pass to come.
        self.worker.repair(self._orders)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        return None, self.worker.received(idle=self._orders.idle)

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self.worker.invalid_blocks()

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        return self.worker.report()

    @property
    def _orders(self) -> Orders:
        orders = self._get_connector_metadata()
        assert isinstance(orders, Orders)
        return orders

    # -- both ------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        if self._scheduler is not None:
            self._scheduler.close()
        if self._worker is not None:
            self._worker.close()

    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        events = self._scheduler.events() if self._scheduler is not None else None
        return None if events is None else ConnectorStats(data=asdict(events))

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVConnectorStats | None:
        return ConnectorStats(data=data or {})

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: Any
    ) -> KVConnectorPromMetrics | None:
        return PromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)


def _refuse_split_blocks(layer: torch.Tensor, kv_cache_config: Any) -> None:
    """Refuse kernels that want smaller blocks than vLLM's: orders name vLLM's, and the cache's are others then."""
    size = kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
    if layer.shape[2] != size:
        raise UnsupportedCache(f"blocks of {size} tokens lie as blocks of {layer.shape[2]}: set --block-size to that")


def _refuse_unsupported(vllm_config: Any, kv_cache_config: Any) -> None:
    """Refuse what the transformers engine refuses, and what vLLM adds."""
    if len(kv_cache_config.kv_cache_groups) != 1:
        raise UnsupportedCache("the model's layers are of several kinds of attention")
    spec = kv_cache_config.kv_cache_groups[0].kv_cache_spec
    if type(spec).__name__ != "FullAttentionSpec":
        raise UnsupportedCache(f"{type(spec).__name__} is not attention over all tokens")
    if spec.dtype != vllm_config.model_config.dtype:
        raise UnsupportedCache(f"the cache holds {spec.dtype}, the model computes {vllm_config.model_config.dtype}")
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        raise UnsupportedCache("pipeline parallelism; tensor parallelism is supported")
    if vllm_config.speculative_config is not None:
        raise UnsupportedCache("speculative decoding adds layers that segments do not hold")
