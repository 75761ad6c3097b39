"""The load generator: arrivals, figures, what it says of itself, and one run against a real server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.load import (
    Arrival,
    Generator,
    Listener,
    LoadError,
    Outcome,
    Settings,
    Workload,
    arrivals,
    measure,
    metrics,
    parse_goodput,
    parse_modes,
    ratios,
    traced,
)
from engine.transformers import LoadedModel
from tests.server.running import Running, running


@given(
    pattern=st.sampled_from(["poisson", "bursts", "constant"]),
    n=st.integers(2, 200),
    rate=st.floats(0.01, 1e4),
    seed=st.integers(0, 2**32),
)
def test_arrivals_have_the_rate_that_was_asked_for(pattern: str, n: int, rate: float, seed: int) -> None:
    found = arrivals(pattern, n, rate, None, seed, 10, 5)
    times = [arrival.at for arrival in found]
    assert len(found) == n
    assert times[0] == 0
    assert times == sorted(times)
    assert (n - 1) / times[-1] == pytest.approx(rate)
    assert found == arrivals(pattern, n, rate, None, seed, 10, 5)


@settings(max_examples=25)
@given(burstiness=st.floats(0.2, 20), seed=st.integers(0, 100))
def test_burstiness_is_the_shape_of_the_gaps(burstiness: float, seed: int) -> None:
    gaps = np.diff([arrival.at for arrival in arrivals("poisson", 5_001, 1.0, burstiness, seed, 1, 1)])
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.25)


def test_seeds_differ_and_all_at_once_is_possible() -> None:
    assert arrivals("poisson", 9, 1.0, None, 1, 1, 1) != arrivals("poisson", 9, 1.0, None, 2, 1, 1)
    assert {arrival.at for arrival in arrivals("bursts", 9, float("inf"), None, 1, 1, 1)} == {0.0}
    assert arrivals("poisson", 1, 1.0, None, 1, 1, 1) == [Arrival(0.0, 1, 1)]


@pytest.mark.parametrize(
    ("pattern", "n", "rate", "burstiness"),
    [
        ("gauss", 5, 1.0, None),
        ("poisson", 0, 1.0, None),
        ("poisson", 5, 0.0, None),
        ("poisson", 5, float("nan"), None),
        ("poisson", 5, 1.0, 0.0),
        ("constant", 5, 1.0, 2.0),
    ],
)
def test_arrivals_that_make_no_sense(pattern: str, n: int, rate: float, burstiness: float | None) -> None:
    with pytest.raises(LoadError):
        arrivals(pattern, n, rate, burstiness, 0, 1, 1)


def test_a_trace_gives_times_and_lengths(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    rows = [(1000, 600, 40, [1, 2]), (1500, 100, 0, [3]), (4000, 5000, 900, list(range(4, 14)))]
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    assert traced(path, None, 1, 1, 10_000, 10_000) == [
        Arrival(0, 600, 40),
        Arrival(0.5, 100, 1),
        Arrival(3, 5000, 900),
    ]
    assert traced(path, 2, 0.5, 0.1, 50, 3) == [Arrival(0, 50, 3), Arrival(0.25, 10, 1)]
    with pytest.raises(LoadError):
        traced(path, None, 0, 1, 10, 10)
    path.write_text("{}\n")
    with pytest.raises(LoadError, match=r"trace\.jsonl, line 1"):
        traced(path, None, 1, 1, 10, 10)


def test_goals() -> None:
    assert parse_goodput("ttft:500,tpot:50") == parse_goodput("ttft:500 tpot:50") == {"ttft": 500, "tpot": 50}
    for text in ("", "ttft", "ttft:soon", "itl:5", "ttft:-1", "ttft:nan"):
        with pytest.raises(LoadError, match="goodput"):
            parse_goodput(text)
    outcome = Outcome("kv", ttft_s=0.4, e2el_s=1.4, completion_tokens=11)
    assert outcome.tpot_s == pytest.approx(0.1)
    assert outcome.meets({"ttft": 400, "tpot": 101, "e2el": 1401})
    assert not outcome.meets({"tpot": 99})
    assert Outcome("kv", ttft_s=0.4, e2el_s=0.4, completion_tokens=1).meets({"tpot": 1})
    assert not Outcome("kv", failure="500 internal").meets({})


def test_modes() -> None:
    assert parse_modes("both") == ("kv", "off")
    assert parse_modes("kv, text,off") == ("kv", "text", "off")
    for text in ("", "maybe", "kv,kv", "kv,"):
        with pytest.raises(LoadError, match="memory"):
            parse_modes(text)


def test_figures_have_vllm_s_names_and_definitions() -> None:
    outcomes = [
        Outcome("kv", ttft_s=i / 1e3, e2el_s=i / 1e3 + 0.4, gaps_s=[0.1] * 4, completion_tokens=5, prompt_tokens=10)
        for i in range(1, 102)
    ]
    outcomes += [Outcome("kv", failure="503 queue_full"), Outcome("kv", failure="503 queue_full")]
    found = metrics(outcomes, 10.0, {"ttft": 50})
    assert (found["completed"], found["failed"], found["failures"]) == (101, 2, {"503 queue_full": 2})
    assert (found["mean_ttft_ms"], found["median_ttft_ms"]) == (51, 51)
    assert (found["p95_ttft_ms"], found["p99_ttft_ms"]) == (96, 100)
    assert found["median_tpot_ms"] == found["p99_itl_ms"] == 100
    assert found["median_e2el_ms"] == 451
    assert (found["request_throughput"], found["request_goodput"]) == (10.1, 5.0)
    assert (found["output_throughput"], found["total_token_throughput"]) == (50.5, 151.5)
    nothing = metrics(outcomes[-2:], 10.0, {})
    assert (nothing["completed"], nothing["median_ttft_ms"], nothing["request_goodput"]) == (0, None, None)
    rows = [{"mode": "kv", **found}, {"mode": "off", **found}, {"mode": "text", **nothing}]
    assert [(r["by"], r["median_ttft_ms"]) for r in ratios(rows)] == [("off", 1.0), ("text", None)]


def _event(**fields: Any) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()


def _words(n: int) -> bytes:
    return b"".join(_event(choices=[{"delta": {"content": "word"}}]) for _ in range(n))


OPENING = b": ping\n\n" + _event(choices=[{"delta": {"role": "assistant", "content": ""}}])
USAGE = {"prompt_tokens": 7, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}
DONE = b"data: [DONE]\n\n"
STREAM = OPENING + _words(3) + _event(choices=[{"delta": {}, "finish_reason": "stop"}])


def _heard(data: bytes, cuts: Sequence[int] = ()) -> Outcome:
    """What a listener makes of ``data`` that comes in parts, one a second, sent at 0."""
    outcome = Outcome("kv")
    listener = Listener(outcome, 0.0)
    edges = [0, *sorted(cuts), len(data)]
    for second, (begin, end) in enumerate(pairwise(edges), 1):
        listener.take(data[begin:end], float(second))
    listener.close()
    return outcome


WHOLE = STREAM + _event(choices=[], usage=USAGE) + DONE


@given(st.lists(st.integers(0, len(WHOLE)), max_size=8))
def test_a_stream_is_understood_wherever_it_is_cut(cuts: list[int]) -> None:
    outcome = _heard(WHOLE, cuts)
    assert outcome.failure is None
    assert (outcome.prompt_tokens, outcome.completion_tokens, outcome.cached_tokens) == (7, 4, 3)
    assert len(outcome.gaps_s) == 2
    assert outcome.e2el_s == outcome.ttft_s + sum(outcome.gaps_s)


def test_only_content_counts_as_a_token() -> None:
    outcome = _heard(WHOLE, [len(OPENING), len(OPENING) + len(_words(1))])
    assert (outcome.ttft_s, outcome.gaps_s, outcome.e2el_s) == (2, [1, 0], 3)
    ended = _heard(OPENING + _event(choices=[{"delta": {}, "finish_reason": "stop"}]) + DONE)
    assert (ended.failure, ended.ttft_s) == (None, 1)


def test_without_usage_chunks_are_counted() -> None:
    outcome = _heard(STREAM + DONE)
    assert (outcome.completion_tokens, outcome.counted) == (3, False)
    assert metrics([outcome], 1.0, {})["tokens_from"] == "chunks"


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (STREAM, "stream: cut off"),
        (_event(choices=[None, {"delta": "?"}], usage=3) + DONE, "stream: no content"),
        (DONE, "stream: no content"),
        (OPENING + _event(error={"code": "engine_failed", "message": "private"}) + DONE, "stream: engine_failed"),
    ],
)
def test_streams_that_fail(data: bytes, failure: str) -> None:
    assert _heard(data).failure == failure


def _streamed(*parts: bytes, fails: bool = False) -> httpx.Response:
    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part
        if fails:
            raise httpx.ReadError("private")

    return httpx.Response(200, content=body())


class _Server(httpx.AsyncBaseTransport):
    """Answers each chat request by ``reply``; has no cubes and no ``/tokenize``."""

    def __init__(self, reply: Callable[[dict[str, Any]], Any]) -> None:
        self._reply = reply
        self.bodies: list[dict[str, Any]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/v1/chat/completions":
            return httpx.Response(404, json={"detail": "Not Found"})
        self.bodies.append(json.loads(request.content))
        found = self._reply(self.bodies[-1])
        response: httpx.Response = await found if asyncio.iscoroutine(found) else found
        return response


def _offered(server: _Server, settings: Settings, planned: Sequence[Arrival]) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with httpx.AsyncClient(transport=server, base_url="http://server") as client:
            return await measure(client, settings, planned, lambda _: None)

    return asyncio.run(asyncio.wait_for(run(), 60))


OFF = Settings("m", modes=("off",), num_warmups=0)
AT_ONCE = arrivals("constant", 6, float("inf"), None, 0, 20, 4)


def test_failures_are_counted_by_reason_and_tell_nothing_of_the_prompt() -> None:
    replies: Iterator[Any] = iter(
        [
            httpx.Response(503, json={"error": {"code": "queue_full", "message": "private"}}),
            httpx.Response(502, text="private"),
            _streamed(b"data: {private\n\n"),
            _streamed(b"data: 5\n\n"),
            _streamed(OPENING, fails=True),
            _streamed(WHOLE),
        ]
    )
    result = _offered(_Server(lambda _: next(replies)), OFF, AT_ONCE)
    (row,) = result["rows"]
    reasons = {"503 queue_full": 1, "502 error": 1, "stream: malformed event": 2, "connection: ReadError": 1}
    assert (row["completed"], row["failures"]) == (1, reasons)
    assert "private" not in json.dumps(result)


def test_requests_leave_though_none_is_answered() -> None:
    everyone = asyncio.Event()

    async def answer(_: dict[str, Any]) -> httpx.Response:
        if len(server.bodies) == len(AT_ONCE):
            everyone.set()
        await everyone.wait()  # a client that waits for answers would wait here for ever
        return _streamed(WHOLE)

    server = _Server(answer)
    result = _offered(server, OFF, AT_ONCE)
    assert result["rows"][0]["completed"] == result["client"]["max_concurrent_requests"] == 6
    assert len({json.dumps(body["messages"]) for body in server.bodies}) == 6


def test_a_limit_holds_requests_back_and_that_is_not_lateness() -> None:
    async def answer(_: dict[str, Any]) -> httpx.Response:
        await asyncio.sleep(0.05)
        return _streamed(WHOLE)

    limited = Settings("m", modes=("off",), num_warmups=0, max_concurrency=2)
    client = _offered(_Server(answer), limited, AT_ONCE)["client"]
    assert client["max_concurrent_requests"] == 2
    assert client["p99_client_queue_ms"] > 90
    assert client["p99_client_queue_ms"] > client["p99_late_ms"]


def test_a_generator_that_falls_behind_says_so() -> None:
    def answer(_: dict[str, Any]) -> httpx.Response:
        time.sleep(0.1)  # on the generator's own thread
        return _streamed(WHOLE)

    client = _offered(_Server(answer), OFF, arrivals("constant", 5, 1000.0, None, 0, 20, 4))["client"]
    assert client["fell_behind"]
    assert client["max_late_ms"] > 90


def test_another_server_is_asked_in_openai_s_words_only() -> None:
    server = _Server(lambda _: _streamed(WHOLE))
    _offered(server, Settings("m", modes=("off",), num_warmups=1, ignore_eos=False), AT_ONCE)
    assert len(server.bodies) == 7
    known = {"model", "messages", "max_tokens", "temperature", "stream", "stream_options"}
    assert {frozenset(body) for body in server.bodies} == {frozenset(known)}
    with pytest.raises(LoadError, match="no memories"):
        _offered(server, Settings("m"), AT_ONCE)


def test_a_warm_up_that_fails_ends_it() -> None:
    server = _Server(lambda _: httpx.Response(401, json={"error": {"code": "invalid_api_key"}}))
    with pytest.raises(LoadError, match="401 invalid_api_key"):
        _offered(server, Settings("m", modes=("off",), num_warmups=1), AT_ONCE)
    assert len(server.bodies) == 1


def test_modes_take_turns_in_a_seeded_order() -> None:
    planned = arrivals("constant", 30, 1.0, None, 0, 1, 1)
    order = Workload(Settings("m", modes=("kv", "text", "off")), planned, {}, []).modes()
    assert all(set(order[i : i + 3]) == {"kv", "text", "off"} for i in range(0, 30, 3))
    assert len({tuple(order[i : i + 3]) for i in range(0, 30, 3)}) > 1
    assert order == Workload(Settings("m", modes=("kv", "text", "off")), planned, {}, []).modes()


def test_nothing_is_left_running_when_a_run_is_stopped() -> None:
    async def run() -> set[str]:
        server = _Server(lambda _: asyncio.Event().wait())
        async with httpx.AsyncClient(transport=server, base_url="http://server") as client:
            generator = Generator(client, Workload(OFF, AT_ONCE, {"off": None}, []), lambda _: None)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(generator.run(), 0.1)
        return {task.get_name() for task in asyncio.all_tasks()} - {asyncio.current_task().get_name()}  # type: ignore[union-attr]

    assert asyncio.run(run()) == set()


@pytest.mark.transformers
def test_both_against_a_real_server(model: LoadedModel, tmp_path: Path) -> None:
    server: Running
    with running(model, tmp_path / "data") as server:
        options = "--num-prompts 8 --request-rate 50 --max-concurrency 2 --num-warmups 2 --output-len 5 --input-len 60"
        sizes = "--memories 6 --pinned 2 --memory-tokens 20 --top-k 2 --prepare-s 5 --goodput ttft:60000"
        file = tmp_path / "load.json"
        command = ["load", "--url", f"{server.url}/v1", "--memory", "both", "--json", str(file), *options.split()]
        done = CliRunner().invoke(app, [*command, *sizes.split()])
        assert done.exit_code == 0, done.output
        assert server.client.get("/v1/memories").json()["data"] == []
        assert not [c for c in server.client.get("/v1/cubes").json()["data"] if c["name"].startswith("bench-load")]
    result = json.loads(file.read_text())
    kv, off = result["rows"]
    assert (kv["mode"], off["mode"]) == ("kv", "off")
    for row in (kv, off):
        assert (row["completed"], row["failed"], row["tokens_from"]) == (4, 0, "usage")
        assert row["total_output_tokens"] == 20
        assert row["request_goodput"] == row["request_throughput"]
        assert 0 < row["median_ttft_ms"] < row["median_e2el_ms"]
    assert kv["total_input_tokens"] > off["total_input_tokens"] > 0
    assert kv["cached_tokens"] > off["cached_tokens"] == 0
    assert set(kv["median_server_timing_ms"]) >= {"queue", "retrieve", "load", "prefill"}
    assert result["all"]["completed"] == 8
    assert result["client"]["max_concurrent_requests"] <= 2
    assert result["ratios"][0]["median_ttft_ms"] > 0
    assert result["machine"]["cores"]
    assert result["settings"]["seed"] == 0
    assert "median_ttft_ms" in done.output


def test_mistakes_are_told_in_one_line() -> None:
    for wrong in (["--memory", "maybe"], ["--pattern", "gauss"], ["--goodput", "itl:5"]):
        done = CliRunner().invoke(app, ["load", "--url", "http://127.0.0.1:9", *wrong])
        assert (done.exit_code, "Traceback" in done.output) == (1, False)
    done = CliRunner().invoke(app, ["load", "--url", "http://127.0.0.1:9"])
    assert done.exit_code == 1
    assert "gives no model" in done.output
    done = CliRunner().invoke(app, ["load", "--url", "http://127.0.0.1:port"])
    assert (done.exit_code, "is no URL" in done.output) == (1, True)
