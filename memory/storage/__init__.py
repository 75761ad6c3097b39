"""Storage of memories: the interface (``base``) and its backends."""
