"""A peer in a process of its own, as its caller sees it. Standard library only."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from benchmarks.peers.base import Answer

_ROOT = Path(__file__).resolve().parents[2]
_VLLM = Path(".venv-vllm")
_PEERS = Path(".venv-peers")
# Each peer's environment beside the packages of this repository; None: the caller's own.
_ENVIRONMENTS: dict[str, Path | None] = {
    "transformers": None,
    "vllm": _VLLM,
    "llama.cpp": _PEERS,
    "lmcache": _VLLM,
    "tardigrade-db": _PEERS,
    "kvboost": _PEERS,
}
PEERS: tuple[str, ...] = tuple(_ENVIRONMENTS)
_OVERRIDE = "RECALLKV_PEERS_PYTHON_"
_LAST_LINES = 40
_CLOSE_S = 15.0


class PeerSkipped(Exception):
    """A peer that cannot run here, and why."""


class PeerFailed(Exception):
    """A peer failed, died or took too long; its process is closed."""


class PeerProcess:
    """One peer, ready to be asked. Calls block; one at a time. Raises ``PeerSkipped`` when it cannot run here."""

    name: str
    versions: dict[str, str]
    notes: str

    def __init__(
        self,
        name: str,
        model_folder: Path,
        threads: int,
        *,
        context: int,
        python: Path | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        """``context`` is the most tokens a prompt (context and query) will have; ``timeout_s`` is for the start and
        for each call. ``python`` is the interpreter that has the peer's packages."""
        self.name = name
        self.timeout_s = timeout_s
        python = python or interpreter(name)
        model = _model_of(name, model_folder)
        self._folder = tempfile.TemporaryDirectory(prefix="recallkv-peer-", ignore_cleanup_errors=True)
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._buffer = bytearray()
        self._answers, ours = os.pipe()
        command = [python, "-m", "benchmarks.peers", name, model, str(threads), str(context), self._folder.name]
        try:
            # A session of its own, so that what the peer has started ends with it.
            self._process = subprocess.Popen(
                [*map(str, command), str(ours)],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(ours,),
                env=_environment(threads),
                start_new_session=True,
            )
        except OSError as error:
            os.close(ours)
            self._release()
            raise PeerSkipped(f"{python} does not start: {error.strerror}") from error
        os.close(ours)
        try:
            ready = self._receive()
        except PeerFailed as error:
            raise PeerSkipped(str(error)) from error
        if "skipped" in ready:
            self.close()
            raise PeerSkipped(ready["skipped"])
        self.versions = ready["versions"]
        self.notes = ready["notes"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def build(self, context: Sequence[int]) -> float:
        """Seconds until the context is cached. It is computed anew, and an earlier one may be forgotten."""
        seconds: float = self._call("build", context=list(context))["seconds"]
        return seconds

    def direct(self, tokens: Sequence[int]) -> Answer:
        """The first token with nothing of this prompt cached."""
        return Answer(**self._call("direct", tokens=list(tokens)))

    def cached(self, context: Sequence[int], query: Sequence[int]) -> Answer:
        """The first token of context and query with the context cached (built before, untimed, if it was not the
        last to be built). Give a query only once: it may be cached from then on."""
        return Answer(**self._call("cached", context=list(context), query=list(query)))

    def close(self) -> None:
        """End the process and all it has started. Can be called twice."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()  # it is told so to end
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_S)
        self._kill()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the conversation ------------------------------------------------------------------------------------

    def _call(self, call: str, **arguments: list[int]) -> dict[str, Any]:
        if self._log.closed:
            raise PeerFailed(f"{self.name} is closed")
        assert self._process.stdin is not None, "started with a pipe"
        line = json.dumps({"call": call, **arguments}) + "\n"
        with suppress(BrokenPipeError):  # it is gone: what it said last is told below
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        answer = self._receive()
        if "failed" in answer:
            self._fail(f"{self.name}: {call}: {answer['failed']}")
        return answer

    def _receive(self) -> dict[str, Any]:
        """The child's next line; ``PeerFailed`` when there will be none, or none in time."""
        deadline = time.monotonic() + self.timeout_s
        while (end := self._buffer.find(b"\n")) < 0:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._fail(f"{self.name}: no answer in {self.timeout_s:g} s")
            read = os.read(self._answers, 1 << 16)
            if not read:
                self._fail(f"{self.name} ended by itself")
            self._buffer += read
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _fail(self, what: str) -> None:
        said = self._last_lines()
        self._kill()
        raise PeerFailed(f"{what}\n{said}".rstrip())

    def _last_lines(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 16_384))
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-_LAST_LINES:])

    def _kill(self) -> None:
        if self._log.closed:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        self._release()

    def _release(self) -> None:
        os.close(self._answers)
        self._log.close()
        self._folder.cleanup()


def interpreter(name: str) -> Path:
    """The interpreter that has a peer's packages: ``RECALLKV_PEERS_PYTHON_NAME`` (NAME in capitals, with ``_`` for
    what is neither letter nor digit), or its environment beside the repository. Raises ``PeerSkipped``."""
    if name not in _ENVIRONMENTS:
        raise PeerSkipped(f"there is no peer '{name}'; there are {', '.join(PEERS)}")
    given = os.environ.get(_OVERRIDE + "".join(c if c.isalnum() else "_" for c in name.upper()))
    if given:
        return Path(given)
    environment = _ENVIRONMENTS[name]
    if environment is None:
        return Path(sys.executable)
    python = _ROOT / environment / "bin" / "python"
    if python.is_file():
        return python
    if environment == _VLLM and _importable("vllm"):
        return Path(sys.executable)
    raise PeerSkipped(f"{environment} is not there: make {'env-vllm' if environment == _VLLM else 'env-peers'}")


def _importable(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def _model_of(name: str, folder: Path) -> Path:
    if name != "llama.cpp":
        return folder
    # Made here, because it needs this package's environment.
    from benchmarks.peers.gguf import NoGguf, float32_gguf

    try:
        return float32_gguf(folder)
    except NoGguf as error:
        raise PeerSkipped(str(error)) from error


def _environment(threads: int) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(_ROOT),  # nothing of this repository is installed there
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
