from __future__ import annotations

import json
import re

import pytest
import typer

from benchmarks.cli import app
from benchmarks.report.readme import RESULTS
from benchmarks.report.sources import SOURCES, Source


def test_each_committed_result_has_a_source() -> None:
    assert sorted(source.file for source in SOURCES) == sorted(path.name for path in RESULTS.glob("*.json"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.file)
def test_a_source_s_command_is_there_and_read_that_data(source: Source) -> None:
    _, name, *flags = source.command.split()
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert [flag for flag in flags if flag.startswith("--") and flag not in known] == []
    result = json.loads((RESULTS / source.file).read_text())
    for key in ("data", "trace"):
        if key in result and (given := re.search(rf"--{key} (\S+)", source.command)):
            assert given[1] == result[key]
