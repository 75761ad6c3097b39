"""Repair of composed tokens inside a vLLM worker.

vLLM computes a contiguous end of each prompt and nothing else, so the tokens chosen to be computed anew are run through
the worker's own model in a pass of ours, between vLLM's steps. Each run of neighbouring tokens is one sequence of a
batch whose sequences all have the request's block table: the attention kernels' chunked prefill then is, token for
token, causal attention over the blocks, in which fresh keys and values have taken the place of the moved ones. That
needs no mask, no patched model and no knowledge of the architecture, and works for every back end that vLLM has.

The second layer's deviation (CacheBlend, arXiv 2405.16444) is found by stopping such a pass, over all composed tokens,
before the second layer's attention.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import torch
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.forward_context import set_forward_context
from vllm.v1.attention.backend import CommonAttentionMetadata

from engine.vllm.paged import PagedCache
from engine.vllm.passes import Limits, passes_of
from engine.vllm.plan import Composition, RepairOrder
from engine.vllm.streams import Streams, sent
from kvcache import Composed, Repair, Rotation, UnsupportedRotation
from kvcache.divergence import divergence
from kvcache.repair import Comparison

# What a pass and a run of it cost, in tokens (see ``passes.Limits``): estimates by arithmetic, not measured. On a GPU
# reading the weights takes as long as computing some 250 tokens, on a CPU as some ten; reading the keys and values of
# some thousands of tokens, for one more run, takes a GPU as long as computing some ten, and costs a CPU little.
_GPU_COSTS = (256, 8)
_CPU_COSTS = (12, 0)

_STOCK_TORCH_COMPILE = 1  # vllm.config.CompilationMode
_RUNNERS = ("vllm.v1.worker.gpu_model_runner.GPUModelRunner", "vllm.v1.worker.gpu.model_runner.GPUModelRunner")
"""vLLM's two model runners, and what those of other devices are made of."""


def refusal(runner: Any) -> str | None:
    """Say why passes of our own cannot go through a model runner's model; None where they can.

    Both runners have the model, the configuration and the groups of attention layers, and their builders take the same
    description of a batch. What one of them adds to it for some models (positions in several dimensions, states beside
    the cache, parts of a sequence on other devices) is not known here.
    """
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(runner).__mro__}
    if not names.intersection(_RUNNERS):
        return f"passes of our own are not written for {type(runner).__module__}"
    config = runner.vllm_config
    parallel, compilation = config.parallel_config, config.compilation_config
    state = getattr(runner, "model_state", None)  # the second runner's
    reasons = {
        "positions have several dimensions": getattr(runner, "uses_mrope", False)
        or getattr(state, "rope_state", None) is not None,
        f"{type(state).__name__} prepares attention in a way of its own": state is not None
        and type(state).__name__ != "DefaultModelState",
        "sequences are divided among devices": max(
            parallel.decode_context_parallel_size, parallel.prefill_context_parallel_size
        )
        > 1,
        "experts of several engines compute in step": parallel.data_parallel_size > 1
        and parallel.is_moe_model is not False,
        "adapters (LoRA) change what a step computes": config.lora_config is not None,
        "the model is compiled as a whole": compilation.mode == _STOCK_TORCH_COMPILE,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


class _Shallow(Exception):
    """The first layers have been run, which is all that was wanted."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys = keys
        self.values = values


class Repairer:
    """Passes of our own through a worker's model. ``runner`` is one of vLLM's model runners that :func:`refusal` has
    nothing against; ``layer_names`` those of its attention layers in order. Raises ``AttributeError`` for a runner that
    has not the parts this needs."""

    def __init__(
        self, runner: Any, cache: PagedCache, layer_names: Sequence[str], streams: Streams | None = None
    ) -> None:
        self._model = runner.model
        self._config = runner.vllm_config
        self._groups = runner.attn_groups[0]
        self._streams = streams or Streams()
        # Half of what a step may take: requests that are being answered wait for a pass of ours as for a step.
        self._max_tokens: int = max(1, runner.max_num_tokens // 2)
        self._limits = Limits(
            self._max_tokens,
            runner.vllm_config.scheduler_config.max_num_seqs,
            *(_GPU_COSTS if cache.device.type == "cuda" else _CPU_COSTS),
        )
        self._scores: dict[str, list[torch.Tensor]] = {}
        self._cache = cache
        self._layer_names = layer_names
        self._attention = self._config.compilation_config.static_forward_context

    def steps(self, order: RepairOrder) -> Generator[None, None, int]:
        """Do what the order says, handing back after each pass so that others get their turn; returns how many tokens
        were computed anew."""
        # vLLM takes a request up again from its first token when its load failed or it was preempted.
        self._scores.pop(order.name, None)
        for begin, end in order.before:
            yield from self._compute(order, begin, end)
        computed = 0
        if order.composition is not None:
            computed = yield from self._anew(order, self._chosen(order, order.composition))
        for begin, end in order.after:
            yield from self._compute(order, begin, end)
        return computed

    def _anew(self, order: RepairOrder, chosen: Sequence[int]) -> Generator[None, None, int]:
        """Compute chosen positions, and those between them that it is cheaper to compute too; returns how many. Small
        passes share one turn, as long as together they cost no more than a large one."""
        computed = spent = 0
        for runs in passes_of(chosen, self._limits):
            n_tokens = sum(len(run) for run in runs)
            if spent and spent + n_tokens > self._max_tokens:
                yield
                spent = 0
            self._forward(order, sorted(runs, key=len))
            computed += n_tokens
            spent += n_tokens + self._limits.per_pass
        if spent:
            yield
        return computed

    def forget_score(self, name: str) -> None:
        """Let go of the logits of one prompt, where there are some."""
        self._scores.pop(name, None)

    def _compute(self, order: RepairOrder, begin: int, end: int) -> Generator[None, None, None]:
        """Compute a range of positions, and keep the logits of those that are scored."""
        first_scored = len(order.token_ids) - order.score
        for at in range(begin, end, self._max_tokens):
            rows = range(at, min(at + self._max_tokens, end))
            hidden = self._forward(order, [rows])
            if order.score and rows.stop > first_scored:
                with torch.inference_mode():
                    logits = self._model.compute_logits(hidden[max(0, first_scored - rows.start) : len(rows)])
                if logits is not None:  # with tensor parallelism only one rank has them
                    self._scores.setdefault(order.name, []).append(logits.float().cpu())
            yield

    def divergence(self, exact: str, other: str) -> tuple[float, float] | None:
        """Return the mean KL(exact || other) in nats and the share of equal likeliest tokens, of two scored prompts;
        ``other`` is then forgotten. None on ranks that have no logits."""
        scored = self._scores.get(exact), self._scores.pop(other, None)
        if scored[0] is None or scored[1] is None:
            return None
        return divergence(torch.cat(scored[0]), torch.cat(scored[1]))

    def forget_scores(self) -> None:
        """Let go of all logits."""
        self._scores.clear()

    @torch.inference_mode()
    def _chosen(self, order: RepairOrder, composition: Composition) -> list[int]:
        repair = Repair(composition.strategy, composition.share)
        composed = Composed(
            tuple(range(begin, end) for begin, end, _ in composition.parts),
            tuple(starts for _, _, starts in composition.parts),
        )
        wanted = repair.signal
        signal = self._compared(order, composed, wanted) if isinstance(wanted, Comparison) else None
        return [position for position in repair.choose(composed, signal) if position >= order.begin]

    def _compared(self, order: RepairOrder, composed: Composed, comparison: Comparison) -> torch.Tensor:
        """Compare all composed tokens, float32 [composed tokens]; in chunks, because the first layer's keys and values
        depend on nothing before them and so are in place already."""
        positions = composed.positions
        rows = range(positions[0], positions[-1] + 1)
        step = min(self._max_tokens, 512)
        found = [self._compared_rows(order, rows[at : at + step], comparison) for at in range(0, len(rows), step)]
        return torch.cat(found)[torch.tensor(positions) - rows.start].cpu()

    def _compared_rows(self, order: RepairOrder, rows: range, comparison: Comparison) -> torch.Tensor:
        held = self._cache.read_layer(comparison.layer, order.block_ids, rows.start, rows.stop)
        heads, dim = held[0].shape[0], held[0].shape[2]
        hook = self._attention[self._layer_names[comparison.layer]].register_forward_pre_hook(_stop_here)
        try:
            self._forward(order, [rows])
        except _Shallow as shallow:
            fresh = [t.view(-1, heads, dim)[: len(rows)].transpose(0, 1) for t in (shallow.keys, shallow.values)]
        else:
            raise AssertionError("the pass went past the layer that it was to stop at")
        finally:
            hook.remove()
        sums = [torch.stack(comparison.sums(new, old)) for new, old in zip(fresh, held, strict=True)]
        # Each rank has seen its own heads only.
        keys, values = tensor_model_parallel_all_reduce(torch.stack(sums).to(self._cache.device))
        return comparison.signal(*keys) + comparison.signal(*values)

    @torch.inference_mode()
    def _forward(self, order: RepairOrder, runs: Sequence[range]) -> torch.Tensor:
        """Run one pass over runs of the prompt's tokens; returns the last hidden states, [tokens, hidden]. Short runs
        come first, as some back ends want it."""
        device = self._cache.device
        positions = torch.tensor([position for run in runs for position in run])
        tokens = torch.tensor(order.token_ids)[positions]
        lengths = torch.tensor([0, *(len(run) for run in runs)], dtype=torch.int32)
        starts = lengths.cumsum(0, dtype=torch.int32)
        ends = torch.tensor([run.stop for run in runs], dtype=torch.int32)
        table = torch.tensor(order.block_ids, dtype=torch.int32).repeat(len(runs), 1)
        slots, at = self._cache.slots(order.block_ids, positions), sent(positions, device)
        common = CommonAttentionMetadata(
            query_start_loc=sent(starts, device),
            query_start_loc_cpu=starts,
            seq_lens=sent(ends, device),
            seq_lens_cpu_upper_bound=ends,
            num_reqs=len(runs),
            num_actual_tokens=len(positions),
            max_query_len=max(len(run) for run in runs),
            max_seq_len=int(ends.max()),
            block_table_tensor=sent(table, device),
            slot_mapping=slots,
            is_prefilling=torch.ones(len(runs), dtype=torch.bool),
            positions=at,
        )
        with set_forward_context(
            self._metadata(common),
            self._config,
            num_tokens=len(positions),
            slot_mapping=dict.fromkeys(self._layer_names, slots),
            skip_compiled=True,  # a compiled model has no layers to stop at, and no graph of this shape
        ):
            hidden: torch.Tensor = self._model(input_ids=sent(tokens, device), positions=at)
        return hidden

    def _metadata(self, common: CommonAttentionMetadata) -> dict[str, Any]:
        """Describe a pass to each layer's back end.

        Builders fill host buffers of their own, from which copies to the device may still be under way when the next
        batch is described: those of vLLM's last step are waited for before, and ours before vLLM's next step.
        """
        self._streams.finish()
        metadata: dict[str, Any] = {}
        for group in self._groups:
            metadata.update(dict.fromkeys(group.layer_names, group.build_metadata(common, 0)))
        self._streams.finish()
        return metadata


def _stop_here(module: Any, arguments: tuple[Any, ...]) -> None:
    raise _Shallow(arguments[1], arguments[2])


def rotation_of_vllm(model: torch.nn.Module) -> Rotation:
    """Read how this model's keys move off its own tables of cosine and sine, and try it.

    The table's first row after zero says each frequency roughly; rows ever further on say it ever more exactly, because
    the whole turns between are known by then. Scalings of the frequencies (linear, llama3, yarn) are in the tables.
    Raises ``UnsupportedRotation`` where there is no such table, or keys do not move as it says.
    """
    found = {id(m): m for name, m in model.named_modules() if name.rpartition(".")[2] == "rotary_emb"}
    tables = [m for m in found.values() if isinstance(getattr(m, "cos_sin_cache", None), torch.Tensor)]
    if len(tables) != 1 or len(found) != 1:
        raise UnsupportedRotation(f"{type(model).__name__} has {len(found)} rotary embeddings; one is needed")
    rotary: Any = tables[0]
    rotation = Rotation(_frequencies(rotary.cos_sin_cache)[None], interleaved=not rotary.is_neox_style)
    _try(rotary, rotation)
    return rotation


def _frequencies(table: torch.Tensor) -> torch.Tensor:
    """Read frequencies, float64 [rotary_dim / 2], from a table [positions, rotary_dim], cosines first."""
    cos, sin = table.double().cpu().chunk(2, dim=-1)
    angles = torch.atan2(sin, cos)
    frequencies, row = angles[1], 2
    while row < len(angles):
        turns = torch.round((frequencies * row - angles[row]) / (2 * torch.pi))
        frequencies = (angles[row] + 2 * torch.pi * turns) / row
        row *= 2
    return frequencies


def _try(rotary: Any, rotation: Rotation, move: int = 37) -> None:
    """Compare with the model's own keys at two places."""
    table = rotary.cos_sin_cache
    generator = torch.Generator().manual_seed(0)
    dim = rotary.head_size
    plain = torch.randn((4, 1, dim), generator=generator).to(table.device, table.dtype)
    at = [torch.arange(4, device=table.device) + offset for offset in (3, 3 + move)]
    keys = [rotary(where, plain.clone().view(4, dim), plain.clone().view(4, dim))[1].view(1, 1, 4, dim) for where in at]
    error = (rotation.turned(keys[0], move).float() - keys[1].float()).abs().max()
    if not error <= (1e-3 if table.dtype == torch.float32 else 0.05):
        raise UnsupportedRotation(f"keys do not move as the model's rotary table says (error {error:.2g})")
