"""The dialect of MemOS's own server, under ``/product``: cubes by name, an envelope of code, message and data.

A cube that is not named is the user's. What MemOS keeps apart (preferences, tool memories) are kinds here; activation
memory is not listed, since every memory is one.
"""

from __future__ import annotations

from fastapi import APIRouter

from server.dialects.memos_product import adding, changing, finding, tasks

router = APIRouter(prefix="/product")
for part in (adding, finding, changing, tasks):
    router.include_router(part.router)
