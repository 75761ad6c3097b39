"""The peer's side: read calls as JSON lines from stdin, answer them through a pipe of their own (libraries print to
stdout), and end when the caller is gone."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.peers.base import Job, Peer

# A module each, imported when it is asked for: an interpreter has the packages of its own peers only.
MODULES = {
    "transformers": "plain",
    "vllm": "vllm",
    "llama.cpp": "llama_cpp",
    "lmcache": "lmcache",
    "tardigrade-db": "tardigrade",
    "kvboost": "kvboost",
}
_END_S = 10.0

Calls = queue.SimpleQueue[dict[str, Any] | None]


def main(name: str, model: str, threads: str, context: str, folder: str, answers: str) -> None:
    calls: Calls = queue.SimpleQueue()
    threading.Thread(target=_read, args=(calls,), daemon=True).start()
    tempfile.tempdir = folder
    with os.fdopen(int(answers), "w") as pipe:

        def say(answer: dict[str, Any]) -> None:
            print(json.dumps(answer), file=pipe, flush=True)

        try:
            peer: Peer = import_module(f"benchmarks.peers.{MODULES[name]}").start(
                Job(Path(model), int(threads), int(context), Path(folder))
            )
            ready = {"versions": peer.versions(), "notes": peer.notes}
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the reason
            traceback.print_exc()
            say({"skipped": _reason(error)})
            return
        say(ready)
        while (call := calls.get()) is not None:
            try:
                answer = _answer(peer, call)
            except Exception as error:  # noqa: BLE001 - reported to the caller, who ends this process
                traceback.print_exc()
                answer = {"failed": _reason(error)}
            say(answer)
        peer.close()


def _answer(peer: Peer, call: dict[str, Any]) -> dict[str, Any]:
    match call["call"]:
        case "build":
            return {"seconds": peer.build(call["context"])}
        case "direct":
            return asdict(peer.direct(call["tokens"]))
        case "cached":
            return asdict(peer.cached(call["context"], call["query"]))
        case other:
            raise ValueError(f"there is no call '{other}'")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _read(calls: Calls) -> None:
    """Pass the calls on. When the caller is gone, this process ends and all it has started, in the middle of a call
    too."""
    for line in sys.stdin:
        calls.put(json.loads(line))
    calls.put(None)
    threading.Event().wait(_END_S)
    _end()


def _end() -> None:
    if os.getpgrp() == os.getpid():  # as it is started by its caller
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # the caller is gone
        main(*sys.argv[1:])
    _end()
