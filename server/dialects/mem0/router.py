"""The dialect of mem0: what its clients ask of its platform (versions 1 to 3 of the paths), and its own server's REST.

``user_id`` is a cube.
"""

from __future__ import annotations

from fastapi import APIRouter

from server.dialects.mem0 import adding, changing, entities, finding

router = APIRouter()
for part in (entities, adding, finding, changing):
    router.include_router(part.router)
