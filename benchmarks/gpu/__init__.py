"""One short run on a GPU: is it right there, and how fast is it?

``python -m benchmarks.gpu --out DIR``: stages, each a process of its own with a budget of time and a result of its own
in DIR, and one table at the end. It needs torch, transformers, safetensors and numpy only; ``--device cpu --models
tiny`` rehearses every stage. docs/gpu.md says what the figures mean.
"""
