"""Labelled cases of memories that change: a bank of scenarios, and what makes cases of them."""
