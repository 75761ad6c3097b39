"""The same work done with other software: the same prompts, as token ids, on the same machine in the same run.

Each peer runs in a process of its own, with an interpreter that has its packages (``make env-peers``, ``make
env-vllm``). What is imported here is the standard library only, because peers' interpreters import it too.
"""

from __future__ import annotations

from benchmarks.peers.base import Answer
from benchmarks.peers.process import PEERS, PeerFailed, PeerProcess, PeerSkipped

__all__ = ["PEERS", "Answer", "PeerFailed", "PeerProcess", "PeerSkipped"]
