"""Composition under vLLM's second model runner, the default on GPUs.

Its kernels are written in Triton, which has no compiler for CPUs here; Triton's interpreter runs them one by one. vLLM
takes that for a back end when it is told that there is one for CPUs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PRETEND = """
import triton.backends as backends

class Driver:
    @staticmethod
    def is_active():
        return True

backends.backends["cpu"] = backends.Backend(compiler=backends.backends["nvidia"].compiler, driver=Driver)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_composition_is_the_same_under_the_second_runner(tmp_path: Path) -> None:
    """What is moved and repaired is reported so, and all computed anew is full prefill, token for token."""
    pytest.importorskip("triton")
    (tmp_path / "sitecustomize.py").write_text(_PRETEND)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    command = [sys.executable, "-m", "pytest", "--engine", "vllm", "tests/vllm/test_composition.py", "-s", "-x"]
    command += ["-p", "no:cacheprovider", "-o", "filterwarnings=default", "-k", "first-1.0 or deviation"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "2 passed" in done.stdout
    assert "Using V2 Model Runner" in done.stdout + done.stderr
