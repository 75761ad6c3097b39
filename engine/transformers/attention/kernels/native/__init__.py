"""Kernels in C++ for CPUs, compiled for the machine when they are first needed.

Attention over many spans with few new tokens is what this engine does all day, and no call of PyTorch's does it well on
a CPU: spans are copied behind each other or merged, and its float32 products leave half of some CPUs' width unused.
Where there is no compiler, everything goes on without.
"""

from engine.transformers.attention.kernels.native.attention import NativeAttention, example, native_attention
from engine.transformers.attention.kernels.native.compiling import NotCompiled, compiled

__all__ = ["NativeAttention", "NotCompiled", "compiled", "example", "native_attention"]
