"""Measurements, one module per question: each has ``measure(...)``, which returns plain data."""
