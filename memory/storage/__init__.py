"""Where memories are kept: the interface (``base``) and its backends."""
