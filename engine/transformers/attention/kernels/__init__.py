"""Kernels of attention; ``engine.transformers.attention.choose`` says which of them a model gets."""
