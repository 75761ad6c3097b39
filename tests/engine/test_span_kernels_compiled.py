"""The Triton kernels compiled for an H100, which needs no GPU: nothing spills, and keys are fetched ahead."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is installed with PyTorch for GPUs only")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

import triton

if not triton.__version__.startswith("3.6."):
    pytest.skip(
        "Triton 3.6 is what PyTorch 2.11 has; other versions write for other assemblers", allow_module_level=True
    )

import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine.transformers.attention.kernels import spans

# An H100's programs have so much shared memory.
_SHARED = 227 * 1024
_POINTERS = {"query": "*bf16", "parts": "*fp32", "sums": "*fp32", "table": "*i64", "begins": "*i64", "scale": "fp32"}


def compiled(function: Any, constants: dict[str, Any], aligned: tuple[str, ...], warps: int, stages: int) -> Any:
    names = function.arg_names
    signature = {name: "constexpr" if name in constants else _POINTERS.get(name, "i32") for name in names}
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": stages})


@pytest.mark.parametrize("group", [4, 8])
def test_attention_neither_spills_nor_waits_for_its_keys(group: int, tmp_path: Path) -> None:
    constants = {
        "HEADS": 8 * group, "GROUP": group, "ROWS": 16, "WIDTH": 128, "BLOCK": spans._BLOCK,
        "DTYPE": tl.bfloat16, "PRECISION": "ieee",
    }  # fmt: skip
    aligned = ("query", "parts", "sums", "query_head", "query_token")
    found = compiled(spans._attend, constants, aligned, 4, 3)
    assert found.metadata.shared <= _SHARED
    assert len(re.findall(r"cp\.async", found.asm["ptx"])) > 16
    code = tmp_path / "attend.ptx"
    code.write_text(found.asm["ptx"])
    assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    told = subprocess.run(
        [assembler, "-v", "--gpu-name=sm_90a", code, "-o", tmp_path / "attend.cubin"],
        capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip
    assert "0 bytes spill stores, 0 bytes spill loads" in told
