"""The lab: what it says it measures is what it measures."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.lab import charts, findings
from benchmarks.lab import run as lab_run
from benchmarks.lab.architectures import ARCHITECTURES, Size
from benchmarks.lab.ceilings import Ceilings, Floors, measured
from benchmarks.lab.charts import Line, line_chart
from benchmarks.lab.measure import ContextBench
from benchmarks.lab.published import MEMOS
from benchmarks.lab.report import markdown, page
from benchmarks.lab.run import Settings, UnknownModel, run
from benchmarks.lab.suites import MEMOS_CONTEXTS, MEMOS_QUERIES, SUITES, Cell
from benchmarks.lab.weights import Fp8Linear, choose_kind, random_network, word_tokenizer
from benchmarks.support.stats import interval
from engine.errors import UnsupportedModel
from engine.transformers import TransformersEngine
from kvcache import TieredStore
from kvcache.files import disk as disk_module

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
TINY = ARCHITECTURES["tiny"]


# -- sizes and floors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "billions"),
    [("qwen3-8b", 8.19), ("qwen3-32b", 32.76), ("qwen2.5-72b", 72.71), ("smollm2-135m", 0.1345), ("qwen3-0.6b", 0.596)],
)
def test_architectures_have_their_published_sizes(name: str, billions: float) -> None:
    assert Size.of(ARCHITECTURES[name].config(1024)).parameters / 1e9 == pytest.approx(billions, rel=0.001)


def test_operations_are_those_that_torch_counts() -> None:
    """Against torch's own counter; written-out attention computes all n x n pairs, ours counts those that are seen."""
    network = random_network(TINY, 1024, CPU, torch.float32)
    network.set_attn_implementation("eager")
    size, n = Size.of(network.config), 40
    with FlopCounterMode(display=False) as counter:
        network(torch.arange(n)[None], logits_to_keep=1)
    attention = 4 * size.layers * size.heads * size.head_dim
    unseen = attention * (n * n - n * (n + 1) / 2)
    assert counter.get_total_flops() == size.flops(n, 0) + unseen


@given(st.integers(1, 5000), st.integers(0, 5000), st.integers(1, 5000))
def test_operations_add_up_over_chunks(first: int, behind: int, second: int) -> None:
    size = Size.of(TINY.config(1024))
    whole = size.flops(first + second, behind)
    assert size.flops(first, behind) + size.flops(second, behind + first) - 2 * size.head == pytest.approx(whole)


@given(st.integers(1, 8000), st.integers(1, 1000))
def test_floors_rise_from_tier_to_tier(context: int, query: int) -> None:
    size = Size.of(TINY.config(1024))
    floors = Floors(size, Ceilings(1e12, 1e11, 1e10, 1e9), 2, 2, 512)
    resident, host, disk = (floors.loaded(tier, context, query) for tier in ("resident", "host", "disk"))
    assert floors.prefill(query) <= resident < host < disk
    assert host - resident == pytest.approx(context * 512 / 1e10)
    assert disk - resident == pytest.approx(context * 512 / 1e9)


def test_floors_add_up_what_each_operation_takes() -> None:
    """Of one token the weights' bytes count, of a thousand the operations; the embedding is looked up."""
    size = Size.of(ARCHITECTURES["qwen3-8b"].config(8192))
    floors = Floors(size, Ceilings(8e14, 3e12, 5e10, 1e9), 2, 2, 147_456)
    weights = 2 * (size.linear + size.head) / 3e12
    assert floors.prefill(1) == pytest.approx(weights, rel=1e-6)
    assert floors.step(1, 0) == pytest.approx(weights, rel=1e-6)
    assert floors.prefill(6231) == pytest.approx(size.flops(6231, 0) / 8e14, rel=0.01)
    at_once = max(size.flops(167, 6064) / 8e14, weights + 6064 * 147_456 / 3e12)
    assert floors.prefill(167, 6064) > at_once
    assert floors.prefill(167, 6064) < size.flops(167, 6064) / 8e14 + weights + 6064 * 147_456 / 3e12
    # GPU.md's figures for an H100: 5.8 ms resident, 21.2 ms behind the longest query, decoding at most 187 tokens/s.
    assert floors.prefill(167, 6064) == pytest.approx(5.8e-3, rel=0.05)
    assert 1 / floors.step(1, 6231) == pytest.approx(187, rel=0.03)
    assert 16 / floors.step(16, 6231) == pytest.approx(1609, rel=0.03)


def test_eight_bit_layers_have_a_rate_of_their_own() -> None:
    size = Size.of(ARCHITECTURES["qwen2.5-72b"].config(8192))
    slow, quick = (
        Floors(size, Ceilings(8e14, 3e12, 5e10, None, small), 1, 2, 327_680).prefill(7017) for small in (None, 16e14)
    )
    attention = size.layers * size.layer(7017, 0)[-1].flops / 8e14
    assert quick - attention == pytest.approx((slow - attention) / 2, rel=0.01)


def test_ceilings_are_measured(tmp_path: Path) -> None:
    found = measured(CPU, torch.float32, tmp_path)
    assert min(found.flops, found.device_bytes_s, found.disk_bytes_s or 0.0) > 1e6
    assert found.host_bytes_s is None
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=40))
def test_intervals_hold_the_median(samples: list[float]) -> None:
    found = interval(samples)
    assert found.p50 == pytest.approx(statistics.median(samples), abs=1e-6)
    assert found.low <= found.p50 <= found.high
    if len(samples) < 6:
        assert (found.low, found.high) == pytest.approx((min(samples), max(samples)), abs=1e-6)


@pytest.mark.parametrize(("n", "at"), [(6, 1), (8, 1), (9, 2), (12, 3), (20, 6), (30, 10)])
def test_intervals_are_those_of_the_tables(n: int, at: int) -> None:
    """Ranks of the 95% interval of a median, as in Conover, Practical Nonparametric Statistics."""
    found = interval([float(i) for i in range(1, n + 1)])
    assert (found.low, found.high) == (at, n + 1 - at)


# -- random weights ----------------------------------------------------------------------------------------------


def test_random_weights_are_whole_seeded_and_run() -> None:
    network = random_network(TINY, 1024, CPU, torch.float32, seed=3)
    again, other = (random_network(TINY, 1024, CPU, torch.float32, seed=seed) for seed in (3, 4))
    assert not any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))
    assert sum(p.numel() for p in network.parameters() if p.dim() > 1) == Size.of(network.config).parameters
    weights = [model.model.layers[0].self_attn.q_proj.weight for model in (network, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with torch.inference_mode():
        logits = network(torch.arange(30)[None]).logits
    assert logits.isfinite().all()
    assert logits.std() > 0.01


def test_eight_bit_layers_compute_what_their_weights_say() -> None:
    torch.manual_seed(0)
    layer = Fp8Linear(nn.Linear(64, 32, bias=False))
    inputs = torch.randn(5, 64)
    expected = inputs @ (layer.weight.float() * layer.scale).t()
    found = layer(inputs)
    assert found.shape == (5, 32)
    error = (found - expected).norm() / expected.norm()
    assert error < 0.05, "8-bit inputs have three bits of mantissa"


def test_eight_bit_weights_leave_the_last_layer_its_dtype() -> None:
    assert choose_kind(Size.of(ARCHITECTURES["qwen2.5-72b"].config(1024)), torch.bfloat16, CPU) == "full"
    network = random_network(TINY, 1024, CPU, torch.float32, "fp8")
    kinds = {type(module).__name__ for module in network.modules() if isinstance(module, (nn.Linear, Fp8Linear))}
    assert kinds == {"Fp8Linear", "Linear"}, "the last layer keeps its dtype"
    assert type(network.lm_head) is nn.Linear


def test_the_tokenizer_knows_every_id() -> None:
    tokenizer = word_tokenizer(300)
    assert tokenizer.decode([0, 299]) == "w0 w299"


# -- published figures -------------------------------------------------------------------------------------------


def test_published_cells_are_those_of_the_suite() -> None:
    suite = {(cell.context_tokens, cell.query_tokens) for cell in SUITES["memos-table"].cells}
    assert suite == {(context, query) for _, context, query in MEMOS}
    assert len(MEMOS) == 27
    for cell in MEMOS.values():  # printed with two decimals
        exact = 100 * (cell.direct_s - cell.cached_s) / cell.direct_s
        assert cell.speedup_percent == pytest.approx(exact, abs=4)


def test_published_builds_are_quicker_than_their_own_prefill() -> None:
    """What the module says of the published baseline."""
    short = {name: sum(_odd(context) for _, context, _ in MEMOS if context == tokens) for name, tokens in _lengths()}
    odd = {
        name: sum(c.build_s + c.cached_s < c.direct_s for (_, context, _), c in MEMOS.items() if context == tokens)
        for name, tokens in _lengths()
    }
    assert short == {"short": 9, "medium": 9, "long": 9}
    assert odd["long"] == 9
    assert odd["medium"] == 8


def _odd(context: int) -> bool:
    return context in MEMOS_CONTEXTS.values()


def _lengths() -> list[tuple[str, int]]:
    assert len(MEMOS_QUERIES) == 3
    return list(MEMOS_CONTEXTS.items())


# -- runs --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick() -> dict[str, Any]:
    settings = Settings(models=("tiny",), weights="random", rounds=2, contexts=(512,), peers=("transformers",))
    return run(settings, lambda _: None)


def test_every_mode_of_every_cell_has_a_row(quick: dict[str, Any]) -> None:
    modes = [row["mode"] for row in quick["rows"]]
    assert modes == ["direct", "resident", "host", "disk", "composed"]
    for row in quick["rows"]:
        assert row["ttft_s"]["low"] <= row["ttft_s"]["p50"] <= row["ttft_s"]["high"]
        assert row["ratio_to_floor"] == pytest.approx(row["ttft_s"]["p50"] / row["floor_s"], rel=0.01)
    direct = quick["rows"][0]
    assert direct["speedup_percent"] == 0.0
    assert direct["build_s"] is None
    assert all(row["build_s"] > 0 for row in quick["rows"][1:])
    assert quick["rows"][-1]["fidelity"] == "high"
    assert quick["ceilings"]["flops"] > 0
    assert quick["machine"]["torch"] == torch.__version__


def test_what_was_stored_gives_the_output_of_direct_prefill(quick: dict[str, Any]) -> None:
    chained = [row for row in quick["rows"] if row["mode"] in ("resident", "host", "disk")]
    assert len(chained) == 3
    assert all(row["outputs_equal"] for row in chained)


def test_building_stands_beside_plain_prefill(quick: dict[str, Any]) -> None:
    (build,) = quick["builds"]
    assert build["context_tokens"] == 512
    assert build["nbytes"] == 512 * quick["models"]["tiny"]["bytes_per_token"]
    assert build["ratio_to_prefill"] > 0


def test_what_cannot_be_run_says_why(quick: dict[str, Any]) -> None:
    assert quick["skipped"] == [
        {"model": "tiny", "what": "peer:transformers", "reason": "peers load weights from a folder; these are random"}
    ]


@pytest.mark.parametrize("suite", ["composed", "codecs", "concurrency"])
def test_suites(suite: str) -> None:
    context = SUITES[suite].cells[0].context_tokens
    result = run(
        Settings(suite=suite, models=("tiny",), weights="random", rounds=1, contexts=(context,)), lambda _: None
    )
    asked = SUITES[suite]
    per_cell = sum(len(asked.fidelities) if mode.startswith("composed") else 1 for mode in asked.modes)
    assert len(result["rows"]) == per_cell * len(asked.codecs) * len(asked.requests)
    assert {row["requests"] for row in result["rows"]} == set(asked.requests)
    assert {row["codec"] for row in result["rows"] if row["mode"] == "composed-disk"} <= set(asked.codecs)
    assert markdown(result).count("\n| ") > len(result["rows"])


def test_a_cell_that_is_too_long_for_the_model_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    random_network(TINY, 1024, CPU, torch.float32).save_pretrained(folder)
    word_tokenizer(300).save_pretrained(folder)
    result = run(Settings(models=(str(folder),), rounds=1, peers=()), lambda _: None)
    assert {row["context_tokens"] for row in result["rows"]} == {512}
    assert [(s["what"], s["reason"]) for s in result["skipped"]] == [
        ("2048+64 tokens", "the model's context is 1024 tokens")
    ]


def test_a_model_that_nobody_published_is_refused() -> None:
    with pytest.raises(UnknownModel, match="qwen3-8b"):
        run(Settings(models=("gpt-9",), weights="random", contexts=(512,)), lambda _: None)


SMALL = replace(SUITES["memos-table"], cells=tuple(Cell(c, q) for c in (200, 60) for q in (30, 20)), rounds=2)


def small_run(save: Any = lambda result: None, **settings: Any) -> dict[str, Any]:
    """A table of four cells, in bfloat16. The ceilings, which take longest, are not measured."""
    asked = Settings(**{"suite": SMALL, "models": ("tiny",), "weights": "random", "dtype": "bfloat16", **settings})

    def known(device: torch.device, dtype: torch.dtype, folder: Path | None) -> Ceilings:
        return Ceilings(1e12, 1e11, None, None if folder is None else 1e9)

    with mock.patch.object(lab_run, "measured", known):
        return run(asked, lambda _: None, save=save)


def test_stored_contexts_give_the_very_logits_of_prefill_cut_there() -> None:
    result = small_run()
    assert result["failed"] == []
    assert result["models"]["tiny"]["dtype"] == "bfloat16"
    for row in result["rows"]:
        outputs = row["outputs"]
        assert outputs["bitwise"] is (None if row["mode"] == "direct" else True)
        assert not outputs["is_blind"], "keys that are one token off are seen"
        assert outputs["shifted_kl"] > outputs["kl"]
        assert row["outputs_equal"]
        assert row["rounds"] == 2


def test_a_stored_number_that_has_changed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    demote = TieredStore.demote

    def spoiling(self: TieredStore, tier: Any) -> None:
        demote(self, tier)
        for entry in self.catalogue.entries():
            segment = self._on_host.peek(entry.key)
            assert segment is not None
            with torch.inference_mode():
                segment.values[0, 0, 3] += 0.5

    monkeypatch.setattr(TieredStore, "demote", spoiling)
    rows = {(row["mode"], row["context_tokens"]): row for row in small_run(contexts=(60,))["rows"]}
    assert not rows["host", 60]["outputs_equal"]
    assert rows["host", 60]["outputs"]["bitwise"] is False


def test_every_round_is_saved_as_it_ends() -> None:
    seen: list[tuple[int, int]] = []
    result = small_run(lambda found: seen.append((len(found["rows"]), json.dumps(found).count('"rounds": 2'))))
    rows = len(result["rows"])
    assert rows == 4 * 3
    # Two contexts with three rounds each, of which the first warms up, and the end.
    assert [count for count, _ in seen] == [0, rows // 2, rows // 2, rows // 2, rows, rows, rows]


def test_a_cell_that_fails_loses_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = ContextBench._ask_all

    async def failing(self: ContextBench, number: int, contexts: Any, queries: Any) -> Any:
        if number == 1 and len(contexts[0]) == 200 and len(queries[0]) == 30:
            raise torch.cuda.OutOfMemoryError("no room\nmore of it")
        return await ask(self, number, contexts, queries)

    monkeypatch.setattr(ContextBench, "_ask_all", failing)
    result = small_run()
    cells = {(row["context_tokens"], row["query_tokens"]) for row in result["rows"]}
    assert cells == {(200, 20), (60, 30), (60, 20)}
    assert result["failed"] == [{"model": "tiny", "what": "200+30 tokens", "reason": "OutOfMemoryError: no room"}]
    assert "Failed:" in markdown(result)


def test_a_model_that_fails_loses_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    make = lab_run.random_model

    def failing(name: str, *rest: Any) -> Any:
        if name == "qwen3-8b":
            raise UnsupportedModel("not reproduced")
        return make(name, *rest)

    monkeypatch.setattr(lab_run, "random_model", failing)
    result = small_run(models=("qwen3-8b", "tiny"), contexts=(60,))
    assert {row["model"] for row in result["rows"]} == {"tiny"}
    assert result["failed"] == [
        {"model": "qwen3-8b", "what": "model", "reason": "UnsupportedModel: not reproduced"},
    ]


def test_nothing_is_begun_that_would_end_after_the_deadline() -> None:
    result = small_run(deadline_s=0.0)
    assert result["rows"] == []
    assert {one["reason"] for one in result["skipped"]} == {"no time was left"}
    assert len(result["skipped"]) == 4


def test_composed_modes_compose_or_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose keys cannot be moved computes all; such a time is not one of composing."""
    make = lab_run.random_model

    def unmoved(*asked: Any) -> Any:
        model, size, kind = make(*asked)
        return replace(model, rotation=None), size, kind

    monkeypatch.setattr(lab_run, "random_model", unmoved)
    suite = replace(SMALL, modes=("direct", "resident", "composed"), rounds=1)
    result = small_run(suite=suite, contexts=(200,))
    assert result["rows"] == []
    assert {one["reason"] for one in result["failed"]} == {"ServedOtherwise: 1 of 1 pages were computed, not composed"}


def test_a_context_is_built_once_a_round_and_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    build = TransformersEngine.build

    async def counted(self: TransformersEngine, prompt: Any, salt: str = "") -> int:
        built.append(prompt.n_tokens)
        return await build(self, prompt, salt)

    def written(*_: Any, **__: Any) -> None:
        raise AssertionError("a mode without files writes none")

    monkeypatch.setattr(TransformersEngine, "build", counted)
    monkeypatch.setattr(disk_module, "write_segment", written)
    result = small_run()
    assert built == [200] * 3 + [60] * 3
    assert result["failed"] == []
    assert result["ceilings"]["disk_bytes_s"] is None
    assert all(row["store_s"] is None for row in (*result["rows"], *result["builds"]))


def test_a_resident_first_token_stands_beside_the_bare_pass() -> None:
    for row in small_run(contexts=(60,))["rows"]:
        if row["mode"] == "direct":
            assert row["bare_s"] is None
        else:
            assert row["bare_s"] > 0
            assert row["ratio_to_bare"] > 0


# -- findings ----------------------------------------------------------------------------------------------------


def _row(context: int, mode: str, p50: float, build_s: float | None = None) -> dict[str, Any]:
    times = {"p50": p50, "low": p50, "high": p50}
    return {
        "model": "m",
        "context_tokens": context,
        "query_tokens": 64,
        "mode": mode,
        "ttft_s": times,
        "build_s": build_s,
        "requests": 1,
    }


def test_break_even_is_where_the_savings_cross_zero() -> None:
    """Direct costs 1 ms a token, a load 0.2 s and 0.5 ms a token: equal at 400 tokens."""
    rows = []
    for context in (200, 600, 2000):
        rows += [_row(context, "direct", context / 1e3), _row(context, "disk", 0.2 + context / 2e3, context / 1e3)]
    found = findings.break_even(rows, "disk")
    assert found is not None
    assert found.tokens == pytest.approx(400, abs=1)
    assert found.measured == 600
    assert findings.uses_needed(rows, (200, 64), "disk") is None
    assert findings.uses_needed(rows, (2000, 64), "disk") == pytest.approx(2.0 / 0.8)
    assert "pays from 400 tokens" in findings.sentence("m", rows)
    assert "2.5 uses" in findings.sentence("m", rows)


def test_what_never_pays_is_said_to() -> None:
    rows = [_row(500, "direct", 0.1), _row(500, "disk", 0.3, 0.1)]
    assert "does not pay" in findings.sentence("m", rows)


# -- reports -----------------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "line", "circle", "polyline"):
            self.opened.append(tag)
        self.outside += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


def test_the_page_is_whole_and_needs_nothing_beside_it(quick: dict[str, Any]) -> None:
    text = page([quick])
    parser = _Page()
    parser.feed(text.replace("/>", ">"))
    assert parser.opened == []
    assert parser.outside == []
    assert "http" not in text
    assert "script" not in text
    for row in quick["rows"]:
        assert f"{row['ttft_s']['p50'] * 1e3:.1f} ms" in text or f"{row['ttft_s']['p50']:.3f} s" in text
    assert "tiny: on this machine activation" in text


def test_a_page_of_foreign_text_is_escaped(quick: dict[str, Any]) -> None:
    nasty = json.loads(json.dumps(quick).replace('"tiny"', '"<b onload=x>"'))
    assert "<b onload" not in page([nasty])


@given(
    st.lists(st.tuples(st.floats(1, 1e6), st.floats(1e-4, 1e4)), min_size=1, max_size=6),
    st.booleans(),
    st.booleans(),
)
def test_charts_keep_their_points_inside(points: list[tuple[float, float]], log_x: bool, log_y: bool) -> None:
    drawn = line_chart("t", "x", "y", [Line("a & b", sorted(points))], log_x=log_x, log_y=log_y)
    tree = ElementTree.fromstring(drawn)
    _, _, width, height = map(float, tree.attrib["viewBox"].split())
    circles = [element for element in tree.iter() if element.tag == "circle"]
    assert len(circles) == len(points)
    for circle in circles:
        assert 0 <= float(circle.attrib["cx"]) <= width
        assert 0 <= float(circle.attrib["cy"]) <= height


@given(st.lists(st.floats(40, 250), min_size=1, max_size=8))
def test_labels_keep_their_order_and_do_not_cover_each_other(wanted: list[float]) -> None:
    found = charts._apart(wanted)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for above, below in pairwise(order):
        assert found[below] - found[above] >= charts._LABEL - 1e-6
    assert max(found) <= charts._HEIGHT


def test_the_command_writes_json_and_page_and_report_reads_them(tmp_path: Path) -> None:
    out = tmp_path / "lab.json"
    asked = ["lab", "--models", "tiny", "--weights", "random", "--rounds", "1", "--contexts", "512", "--json", str(out)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "KV resident" in done.output
    assert out.with_suffix(".html").exists()
    told = CliRunner().invoke(app, ["report", str(out), "--html", str(tmp_path / "page.html")])
    assert told.exit_code == 0, told.output
    assert "| context + query |" in told.output
    assert "RecallKV lab" in (tmp_path / "page.html").read_text()
    assert CliRunner().invoke(app, ["lab", "--suite", "nonsense"]).exit_code == 2
    assert CliRunner().invoke(app, ["report", str(ROOT / "benchmarks/results/codec-cpu.json")]).exit_code == 2


def test_a_bare_machine_is_enough(tmp_path: Path) -> None:
    """torch, transformers, safetensors and numpy, and what those need."""
    out = tmp_path / "out.json"
    asked = "--suite composed --models tiny --rounds 1 --contexts 1024 --json".split()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.lab", *asked, out],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "RECALLKV_COMMIT": "c", "PYTHONPATH": str(ROOT / "tests/bare")},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert len(result["rows"]) == 4
    assert result["machine"]["commit"] == "c"
    assert "composed (fast)" in done.stdout


def test_the_bare_machine_hides_what_it_should() -> None:
    code = "import sysconfig\ntry:\n    import blake3\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests/bare")},
    )
    assert done.stdout == "blake3\n"
