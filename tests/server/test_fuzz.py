"""Whatever is sent to any route, there is no server error, and the answer has the shape that it should have.

Deeper: ``RECALLKV_FUZZ_EXAMPLES=500 pytest tests/server/test_fuzz.py`` (a route's random examples; beside them
schemathesis sends each route its edge cases).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.transformers import LoadedModel
from tests.server import fuzzing
from tests.server.running import Running, running

EXAMPLES = int(os.environ.get("RECALLKV_FUZZ_EXAMPLES", "8"))
# The same examples each time, unless more are asked for. No shrinking in CI: it could take minutes.
bounded = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
schema = fuzzing.described()
OPERATIONS = [result.ok() for result in schema.get_all_operations()]


@pytest.fixture(scope="module")
def server(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(model, tmp_path_factory.mktemp("fuzz"), body_timeout_s=5.0) as started:
        yield started


@pytest.fixture
def known(server: Running) -> dict[str, list[Any]]:
    """What there is, made again for each route: some of them delete everything."""
    return fuzzing.furnish(server)


@schema.parametrize()
@bounded
def test_every_route_by_its_description(case: Any, server: Running, known: dict[str, list[Any]]) -> None:
    fuzzing.check(fuzzing.send(server, case, known), case)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
@bounded
@given(data=st.data())
def test_every_route_with_one_hostile_value(
    operation: Any, data: st.DataObject, server: Running, known: dict[str, list[Any]]
) -> None:
    """What the description has no words for: not-a-number, half a surrogate pair, filters, integers of any size."""
    case = data.draw(operation.as_strategy())
    request = {"path_parameters": case.path_parameters, "query": case.query, "body": case.body}
    request = {part: fuzzing.with_known(value, known) for part, value in request.items() if value}
    paths = [path for path in fuzzing.places(request) if len(path) > 1]
    if "body" in request:
        paths.append(("body",))
    for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=2)) if paths else ():
        value = data.draw(fuzzing.filters if path[-1] in ("filter", "filters") else fuzzing.hostile)
        try:
            request = fuzzing.replaced(request, path, value)
        except (KeyError, IndexError, TypeError):
            continue  # the first change took away the place of the second
    for part, value in request.items():
        setattr(case, part, value)
    fuzzing.check(fuzzing.send(server, case, {}), case)
