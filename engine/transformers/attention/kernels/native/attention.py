"""The compiled attention as PyTorch tensors see it."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F

from engine.transformers.attention.kernels.native.compiling import NotCompiled, compiled

_SOURCE = Path(__file__).with_suffix(".cpp")
_MAX_WIDTH = 256
_WIDTH_STEP = 4
# Of attention over standard normal numbers, against float64.
_ERROR = 1e-5


class _Part(ctypes.Structure):
    _fields_: ClassVar = [
        ("key", ctypes.c_void_p),
        ("value", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in "n key_head key_row value_head value_row".split()),
    ]


class _Job(ctypes.Structure):
    _fields_: ClassVar = [
        ("query", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("parts", ctypes.c_void_p),
        ("mask", ctypes.c_void_p),
        *(
            (name, ctypes.c_int64)
            for name in (
                "masked query_head query_row mask_row n_parts n_keys heads kv_heads tokens width"
                " threads blocks vectors next entered"
            ).split()
        ),
        ("scratch", ctypes.c_void_p),
        ("scale", ctypes.c_float),
    ]


class NativeAttention:
    """``attention.cpp``, run by the threads that PyTorch computes with (its OpenMP's)."""

    def __init__(self, library: Path, openmp: Path) -> None:
        """Load the library; raises ``OSError`` for a file that cannot be loaded."""
        kernel = ctypes.CDLL(str(library))
        self._plan, self._attend = kernel.recallkv_plan, ctypes.cast(kernel.recallkv_attend, ctypes.c_void_p)
        self._parallel = ctypes.CDLL(str(openmp)).GOMP_parallel
        self._parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._parallel.restype = self._plan.restype = None
        self._plan.argtypes = [ctypes.c_void_p]
        kernel.recallkv_scratch.restype = ctypes.c_int64
        self._scratch_bytes: int = kernel.recallkv_scratch()
        self._local = threading.local()

    @staticmethod
    def fits(query: torch.Tensor, parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> bool:
        """Say whether tensors of this kind can be attended with, and gain. A single token has nothing to gain: it waits
        for memory."""
        value, width = parts[-1][1], query.shape[-1]
        fits = width % _WIDTH_STEP == 0 and width <= _MAX_WIDTH and value.shape[-1] == width
        fits = fits and query.device.type == "cpu" and query.dtype == value.dtype == torch.float32
        return fits and query.shape[2] > 1

    def attend(
        self,
        query: torch.Tensor,
        parts: Sequence[tuple[torch.Tensor, torch.Tensor]],
        scale: float,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend with query [1, heads, new, head_dim] over all parts (keys and values, [1, kv_heads, keys, head_dim]
        each), [1, heads, new, head_dim]; float32 all, see :meth:`fits`. ``mask`` is of the last keys, additive, [new,
        masked]; without one the last keys are the new tokens' own, and each sees those up to itself."""
        _, heads, new, width = query.shape
        query = _lying(query)
        held = [(_lying(key), _lying(value)) for key, value in parts]  # data_ptr() keeps nothing alive
        mask = None if mask is None else _lying(mask)
        out = query.new_empty(1, new, heads, width)
        described = (_Part * len(held))(*(_described(key, value) for key, value in held))
        threads = torch.get_num_threads()
        job = _Job(
            query=query.data_ptr(),
            out=out.data_ptr(),
            parts=ctypes.addressof(described),
            mask=None if mask is None else mask.data_ptr(),
            masked=new if mask is None else mask.shape[1],
            query_head=query.stride(1),
            query_row=query.stride(2),
            mask_row=0 if mask is None else mask.stride(0),
            n_parts=len(held),
            n_keys=sum(key.shape[2] for key, _ in held),
            heads=heads,
            kv_heads=held[0][0].shape[1],
            tokens=new,
            width=width,
            threads=threads,
            scratch=self._scratch(threads).data_ptr(),
            scale=scale,
        )
        at = ctypes.addressof(job)
        self._plan(at)
        self._parallel(self._attend, at, threads, 0)
        return out.transpose(1, 2)

    def _scratch(self, threads: int) -> torch.Tensor:
        """Return this thread's memory for that number of workers, kept: their stacks may be small, and fresh memory is
        slow."""
        held: torch.Tensor | None = getattr(self._local, "scratch", None)
        if held is None or held.numel() < threads * self._scratch_bytes:
            held = self._local.scratch = torch.empty(threads * self._scratch_bytes, dtype=torch.uint8)
        return held


def _lying(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor with its last dimension's numbers side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _described(key: torch.Tensor, value: torch.Tensor) -> _Part:
    return _Part(
        key.data_ptr(),
        value.data_ptr(),
        key.shape[2],
        key.stride(1),
        key.stride(2),
        value.stride(1),
        value.stride(2),
    )


@functools.cache
def native_attention() -> NativeAttention | str:
    """Return the kernel where it can be compiled and is right, else the reason why there is none. Found out once per
    process."""
    try:
        kernel = NativeAttention(compiled(_SOURCE), _openmp())
    except (NotCompiled, OSError, AttributeError) as error:
        return str(error)
    return kernel if _is_right(kernel) else "what was compiled computes something else"


def _openmp() -> Path:
    """Find the OpenMP library that PyTorch's threads are of. Raises ``NotCompiled``."""
    package = Path(torch.__file__).parent
    for folder in (package / "lib", package.with_name("torch.libs")):
        for path in sorted(folder.glob("libgomp*.so*")):
            return path
    raise NotCompiled("PyTorch was built with another OpenMP than GNU's")


def example(
    new: int, lengths: Sequence[int], width: int = 64
) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Draw a query, and parts of these lengths with the new tokens' own behind them, standard normal."""
    generator = torch.Generator().manual_seed(0)

    def some(heads: int, n: int) -> torch.Tensor:
        return torch.randn(1, n, heads, width, generator=generator).transpose(1, 2)

    return some(6, new), [(some(2, n), some(2, n)) for n in (*lengths, new)]


@torch.inference_mode()
def _is_right(kernel: NativeAttention) -> bool:
    for new, lengths, width in ((2, (70,), 64), (37, (5, 300), 128), (130, (), 80)):
        query, parts = example(new, lengths, width)
        keys, values = (torch.cat([part[i] for part in parts], 2).double() for i in (0, 1))
        past = keys.shape[2] - new
        mask = torch.full((new, past + new), float("-inf"), dtype=torch.float64).triu_(past + 1)
        right = F.scaled_dot_product_attention(query.double(), keys, values, mask, scale=0.1, enable_gqa=True)
        for given in (None, mask[:, past:].float()):
            found = kernel.attend(query, parts, 0.1, given)
            if not (found.double() - right).abs().max() < _ERROR:  # not a number is not right either
                return False
    return True
