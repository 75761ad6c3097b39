"""The embedded engine over transformers."""

from engine.transformers.attention.sequence_kv import SequenceKV
from engine.transformers.engine import TransformersEngine, load_engine
from engine.transformers.loading import LoadedModel, load_model, prepare
from engine.transformers.runner import ModelRunner, Work
from engine.transformers.threads import in_passing, leave_to_engine, usable_threads

__all__ = [
    "LoadedModel",
    "ModelRunner",
    "SequenceKV",
    "TransformersEngine",
    "Work",
    "in_passing",
    "leave_to_engine",
    "load_engine",
    "load_model",
    "prepare",
    "usable_threads",
]
