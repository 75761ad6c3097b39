"""What benchmarks say of composed prompts is said of the engine's own: they hold no composition themselves."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import pytest
import torch

import benchmarks
from benchmarks.lab.outputs import tapped
from benchmarks.suites import fidelity
from benchmarks.support import composing
from engine.base import GenerateRequest, Prompt, Sampling, Started
from engine.transformers import LoadedModel, TransformersEngine
from kvcache import Repair, TieredStore

ROOT = Path(benchmarks.__file__).parent
# These check the kernels below composition on a device, and time passes behind slots with whatever is in them.
BELOW_COMPOSITION = {"gpu/checks/attention.py", "gpu/checks/networks.py", "gpu/decoding.py"}
# Pages of random numbers, for files and not for prompts.
MADE_UP = {"suites/store.py"}
CUBE = [f"Person {i} has {i} coats in room {i * 7}" for i in range(12)]
SAMPLING = Sampling(max_tokens=1, temperature=0.0, ignore_eos=True)


def calls_in(path: Path) -> set[str]:
    """Names of all that a module calls, methods without what they are of."""
    called = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    methods = {function.attr for function in called if isinstance(function, ast.Attribute)}
    return methods | {function.id for function in called if isinstance(function, ast.Name)}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_benchmark_composes_by_itself(path: Path) -> None:
    name, calls = str(path.relative_to(ROOT)), calls_in(path)
    if name not in BELOW_COMPOSITION:
        assert not calls & {"open_region", "Probe", "compared", "Composed"}
    if name not in MADE_UP:
        assert "standalone" not in calls


@pytest.mark.parametrize("repair", [Repair("none", 0.0), Repair("deviation", 0.3), Repair("attention", 0.3)], ids=str)
@pytest.mark.parametrize("build", ["single", "pages"])
def test_composed_logits_are_those_of_the_engine(
    model: LoadedModel, tmp_path: Path, build: fidelity.Build, repair: Repair
) -> None:
    """To the bit, for the same prompt: once by the benchmark, once by a request to the engine."""

    async def logits() -> tuple[torch.Tensor, torch.Tensor]:
        engine = TransformersEngine(model, TieredStore(tmp_path), model_id="tiny", composing=composing.ALWAYS)
        lab, strategy = fidelity.Lab(engine), fidelity.Strategy(build, repair)
        try:
            case = await lab.case("Who has coats?", CUBE, (1, 4, 5, 9))
            await engine.build(Prompt(case.prompt.pieces[:1]), build)  # as the benchmark computes it, by itself
            request = GenerateRequest("r", case.prompt, SAMPLING, salt=build, fidelity="high", repair=repair)
            with tapped(model) as tap:
                started, *_ = [event async for event in engine.generate(request)]
                assert isinstance(started, Started)
                assert {report.fidelity for report in started.pieces[1:-1]} == {"high"}
                theirs = tap.last
            _, ours, share = await engine.on_model(lambda runner: lab.composed(runner, case, strategy))
            assert share == pytest.approx(repair.share, abs=0.02)
            return ours[0], theirs
        finally:
            await engine.close()

    ours, theirs = asyncio.run(logits())
    assert torch.equal(ours, theirs)
