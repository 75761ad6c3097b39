"""The lab: what activation saves, and what it costs, on this machine.

Every cell (tokens of context, tokens of query) is measured in every mode in one run, the modes taking turns; beside
each time stands the floor that this machine's measured ceilings allow. Nothing here imports the server: torch,
transformers, safetensors and numpy are enough (``python -m benchmarks.lab``).
"""
