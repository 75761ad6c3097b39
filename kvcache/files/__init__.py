"""Segments as files: their format, reading and writing them, where they lie, and the room that they take."""
