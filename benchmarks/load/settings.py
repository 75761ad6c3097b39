"""What load is offered, and the errors of that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["kv", "text", "off"]
MODES: tuple[Mode, ...] = ("kv", "text", "off")
MEMORY: dict[str, tuple[Mode, ...]] = {"on": ("kv",), "off": ("off",), "both": ("kv", "off")}
GOALS = ("ttft", "tpot", "e2el")


class LoadError(ValueError):
    """Load that cannot be offered: settings that make no sense, or a server that cannot take it."""


@dataclass(frozen=True)
class Settings:
    """``output`` is fixed by ``ignore_eos``; ``timeout_s``: seconds without a byte; ``max_concurrency``: None for no
    limit. ``pinned`` memories are in every prompt, ``top_k`` more are retrieved, each of ``memory_tokens``;
    ``prepare_s``: the most seconds for the server to compute them before the run."""

    model: str
    modes: tuple[Mode, ...] = ("kv", "off")
    max_concurrency: int | None = None
    num_warmups: int = 4
    seed: int = 0
    goodput: Mapping[str, float] = field(default_factory=dict)
    timeout_s: float = 600.0
    ignore_eos: bool = True
    memories: int = 40
    pinned: int = 4
    memory_tokens: int = 64
    top_k: int = 5
    fidelity: str | None = None
    prepare_s: float = 120.0


def parse_goodput(text: str) -> dict[str, float]:
    """``ttft:500,tpot:50`` as milliseconds by name. Raises ``LoadError``."""
    goals: dict[str, float] = {}
    for part in re.split(r"[,\s]+", text.strip()):
        name, _, value = part.partition(":")
        try:
            goals[name] = float(value)
        except ValueError as error:
            raise LoadError(f"goodput: '{part}' is not NAME:MILLISECONDS") from error
        if name not in GOALS or not goals[name] > 0:
            raise LoadError(f"goodput: '{part}' must be one of {', '.join(GOALS)}, with milliseconds above 0")
    return goals


def parse_modes(text: str) -> tuple[Mode, ...]:
    """``on``, ``off``, ``both``, or modes by name, as ``kv,text,off``. Raises ``LoadError``."""
    if text in MEMORY:
        return MEMORY[text]
    modes = tuple(mode for name in text.split(",") for mode in MODES if mode == name.strip())
    if len(modes) != len(text.split(",")) or len(set(modes)) != len(modes):
        raise LoadError(f"memory: '{text}' is not on, off, both, or some of {', '.join(MODES)}")
    return modes
