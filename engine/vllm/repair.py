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
from engine.vllm.plan import Composition, RepairOrder
from kvcache import Composed, Repair, Rotation, UnsupportedRotation
from kvcache.divergence import divergence


class _Shallow(Exception):
    """The first layers have been run, which is all that was wanted."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys = keys
        self.values = values


class Repairer:
    """Passes of our own through a worker's model. ``runner`` is vLLM's V1 model runner; ``layer_names`` those of its
    attention layers in order. Raises ``AttributeError`` for a runner that has not the parts this needs."""

    def __init__(self, runner: Any, cache: PagedCache, layer_names: Sequence[str]) -> None:
        self._model = runner.model
        self._config = runner.vllm_config
        self._groups = runner.attn_groups[0]
        # Half of what a step may take: requests that are being answered wait for a pass of ours as for a step.
        self._max_tokens: int = max(1, runner.max_num_tokens // 2)
        self._scores: dict[str, list[torch.Tensor]] = {}
        self._cache = cache
        self._layer_names = layer_names
        attention = self._config.compilation_config.static_forward_context
        self._second = attention[layer_names[1]]

    def steps(self, order: RepairOrder) -> Generator[None, None, int]:
        """Do what the order says, handing back after each pass so that others get their turn; returns how many tokens
        were computed anew."""
        # vLLM takes a request up again from its first token when its load failed or it was preempted.
        self._scores.pop(order.name, None)
        for begin, end in order.before:
            yield from self._compute(order, begin, end)
        chosen = self._chosen(order, order.composition) if order.composition is not None else []
        for at in range(0, len(chosen), self._max_tokens):
            self._forward(order, sorted(_runs(chosen[at : at + self._max_tokens]), key=len))
            yield
        for begin, end in order.after:
            yield from self._compute(order, begin, end)
        return len(chosen)

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
        """Mean KL(exact || other) in nats and the share of equal likeliest tokens, of two scored prompts; ``other`` is
        then forgotten. None on ranks that have no logits."""
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
        signal = self._deviation(order, composed) if repair.signal == "deviation" else None
        return [position for position in repair.choose(composed, signal) if position >= order.begin]

    def _deviation(self, order: RepairOrder, composed: Composed) -> torch.Tensor:
        """float32 [composed tokens]; in chunks, because the first layer's keys and values depend on nothing before
        them and so are in place already."""
        positions = composed.positions
        rows = range(positions[0], positions[-1] + 1)
        step = min(self._max_tokens, 512)
        found = [self._deviation_of(order, rows[at : at + step]) for at in range(0, len(rows), step)]
        return torch.cat(found)[torch.tensor(positions) - rows.start].cpu()

    def _deviation_of(self, order: RepairOrder, rows: range) -> torch.Tensor:
        held = self._cache.read_layer(1, order.block_ids, rows.start, rows.stop)
        heads, dim = held[0].shape[0], held[0].shape[2]
        hook = self._second.register_forward_pre_hook(_stop_here)
        try:
            self._forward(order, [rows])
        except _Shallow as shallow:
            fresh = [t.view(-1, heads, dim)[: len(rows)].transpose(0, 1) for t in (shallow.keys, shallow.values)]
        else:
            raise AssertionError("the pass went past its second layer")
        finally:
            hook.remove()
        sums = [
            torch.stack([(new - old).float().square().sum(dim=(0, 2)), new.float().square().sum(dim=(0, 2))])
            for new, old in zip(fresh, held, strict=True)
        ]
        # Each rank has seen its own heads only.
        far, size = tensor_model_parallel_all_reduce(torch.stack(sums).to(self._cache.device)).unbind(1)
        distance: torch.Tensor = (far / size.mean(dim=1, keepdim=True)).sum(0)
        return distance

    @torch.inference_mode()
    def _forward(self, order: RepairOrder, runs: Sequence[range]) -> torch.Tensor:
        """One pass over runs of the prompt's tokens; returns the last hidden states, [tokens, hidden]. Short runs come
        first, as some back ends want it."""
        device = self._cache.device
        positions = torch.tensor([position for run in runs for position in run])
        tokens = torch.tensor(order.token_ids)[positions]
        lengths = torch.tensor([0, *(len(run) for run in runs)], dtype=torch.int32)
        starts = lengths.cumsum(0, dtype=torch.int32)
        ends = torch.tensor([run.stop for run in runs], dtype=torch.int32)
        table = torch.tensor(order.block_ids, dtype=torch.int32).repeat(len(runs), 1)
        slots = self._cache.slots(order.block_ids, positions)
        common = CommonAttentionMetadata(
            query_start_loc=starts.to(device),
            query_start_loc_cpu=starts,
            seq_lens=ends.to(device),
            seq_lens_cpu_upper_bound=ends,
            num_reqs=len(runs),
            num_actual_tokens=len(positions),
            max_query_len=max(len(run) for run in runs),
            max_seq_len=int(ends.max()),
            block_table_tensor=table.to(device),
            slot_mapping=slots,
            is_prefilling=torch.ones(len(runs), dtype=torch.bool),
            positions=positions.to(device),
        )
        metadata = {}
        for group in self._groups:
            built = group.build_metadata(common, 0)
            metadata.update(dict.fromkeys(group.layer_names, built))
        with set_forward_context(
            metadata,
            self._config,
            num_tokens=len(positions),
            slot_mapping=dict.fromkeys(self._layer_names, slots),
            skip_compiled=True,  # a compiled model has no layers to stop at, and no graph of this shape
        ):
            hidden: torch.Tensor = self._model(input_ids=tokens.to(device), positions=positions.to(device))
        return hidden


def _stop_here(module: Any, arguments: tuple[Any, ...]) -> None:
    raise _Shallow(arguments[1], arguments[2])


def _runs(positions: Sequence[int]) -> list[range]:
    """Ascending positions as runs of neighbours."""
    runs: list[range] = []
    for position in positions:
        if runs and runs[-1].stop == position:
            runs[-1] = range(runs[-1].start, position + 1)
        else:
            runs.append(range(position, position + 1))
    return runs


def rotation_of_vllm(model: torch.nn.Module) -> Rotation:
    """How this model's keys move, read off its own tables of cosine and sine, and tried.

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
    """float64 [rotary_dim / 2] from a table [positions, rotary_dim], cosines first."""
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
