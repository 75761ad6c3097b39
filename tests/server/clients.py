"""The peers' own Python clients, unmodified, from their packages."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from functools import cache
from types import ModuleType
from typing import Any


def _without_init(name: str) -> None:
    """Make a package importable without running its ``__init__``.

    Both packages import the whole of their product there (vector databases, schedulers, older versions of what this
    project uses) before one gets to the client. The client's modules themselves are imported as they are.
    """
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is not installed: make env"
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations or ())
    package.__spec__ = spec
    sys.modules[name] = package


def _settings() -> None:
    """No telemetry, no settings from files, and what they write at import goes to a folder of its own."""
    folder = tempfile.mkdtemp(prefix="recallkv-clients-")
    os.environ["MEM0_TELEMETRY"] = "False"
    os.environ["MEM0_DIR"] = folder
    os.environ["MEMOS_BASE_PATH"] = folder
    os.environ["PYTHON_DOTENV_DISABLED"] = "1"


@cache
def mem0() -> Any:
    """The module with ``MemoryClient`` and ``AsyncMemoryClient``."""
    _settings()
    _without_init("mem0")
    module = importlib.import_module("mem0.client.main")
    telemetry: Any = importlib.import_module("mem0.memory.telemetry")
    assert telemetry.client_telemetry.posthog is None
    return module


@cache
def memos() -> Any:
    """The module with ``MemOSClient``."""
    _settings()
    _without_init("memos")
    log: Any = importlib.import_module("memos.log")
    # Its first logger would replace every handler of this process, pytest's too.
    log._LOGGING_CONFIGURED_PID = os.getpid()
    return importlib.import_module("memos.api.client")
