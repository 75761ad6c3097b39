"""Judging pairs: what a new statement means for an older memory."""
