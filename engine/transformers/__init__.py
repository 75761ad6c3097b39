"""The embedded engine over transformers."""

from engine.transformers.attention.sequence_kv import SequenceKV
from engine.transformers.engine import TransformersEngine, load_engine
from engine.transformers.loading import LoadedModel, load_model, prepare
from engine.transformers.runner import ModelRunner, Work
from engine.transformers.threads import run_on_short_lived_thread, usable_threads, use_one_thread

__all__ = [
    "LoadedModel",
    "ModelRunner",
    "SequenceKV",
    "TransformersEngine",
    "Work",
    "load_engine",
    "load_model",
    "prepare",
    "run_on_short_lived_thread",
    "usable_threads",
    "use_one_thread",
]
