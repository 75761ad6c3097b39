"""Open-loop load over HTTP: a request leaves at its scheduled time, whatever has become of those before it.

Arrivals come from a seeded process or from a trace; requests with memory and without it take turns within one run, so
that their ratios do not compare two runs. Figures have the names that ``vllm bench serve`` gives them, and its
definitions: ``ttft`` from sending to the first chunk with content, ``itl`` between such chunks, ``tpot`` the time after
the first chunk by the tokens after the first, ``e2el`` from sending to the last chunk. Tokens are those of ``usage``.

A generator that falls behind makes a server look quicker than it is. So how late each request left, how late the event
loop woke up, and the share of a core that the generator used are measured and reported, and ``fell_behind`` says so.
"""

from __future__ import annotations

from benchmarks.load.arrivals import PATTERNS, Arrival, arrivals, traced
from benchmarks.load.figures import metrics, ratios
from benchmarks.load.generating import LATE_MS, Generator, Workload
from benchmarks.load.listening import Listener, Outcome
from benchmarks.load.measuring import measure
from benchmarks.load.preparing import connect, served_model
from benchmarks.load.settings import LoadError, Settings, parse_goodput, parse_modes

__all__ = [
    "LATE_MS",
    "PATTERNS",
    "Arrival",
    "Generator",
    "Listener",
    "LoadError",
    "Outcome",
    "Settings",
    "Workload",
    "arrivals",
    "connect",
    "measure",
    "metrics",
    "parse_goodput",
    "parse_modes",
    "ratios",
    "served_model",
    "traced",
]
