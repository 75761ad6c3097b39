"""Composing where that is measured: whatever can be composed is, also where it diverges or does not pay."""

from __future__ import annotations

from engine.config import CompositionConfig
from kvcache import Certificate

ALWAYS = CompositionConfig(max_kl=float("inf"), min_saved_tokens=-(1 << 30))
ADMITTED = Certificate({"high": 0.0, "fast": 0.0}, {"high": 1.0, "fast": 1.0})
