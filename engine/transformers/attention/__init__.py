"""Attention over segments where they lie: what a pass computes, and which kernels compute it."""
