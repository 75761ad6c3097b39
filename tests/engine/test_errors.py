from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ModelNotLoaded, first_line
from engine.transformers.loading import load_model


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError(), "ValueError"),
        (OSError(""), "OSError"),
        (KeyError(), "KeyError"),
        (ValueError("\n \n"), "ValueError"),
        (ValueError("\n\n why \nmore"), "why"),
        (ValueError("one\r\ntwo"), "one"),
    ],
)
def test_the_first_line_says_something(error: Exception, said: str) -> None:
    assert first_line(error) == said


@pytest.mark.parametrize("error", [OSError(), ValueError("\n"), ValueError("why\nwhere")])
def test_a_model_that_fails_without_a_word_is_named(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("engine.transformers.loading.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(ModelNotLoaded, match=f"cannot be loaded: {first_line(error)}"):
        load_model(tmp_path)
