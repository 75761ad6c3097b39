"""Documents of a cube, and cubes as files."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import asdict
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from memory import Document
from memory.domain.cubes import DEFAULT_CUBE
from server.errors import ApiError
from server.middleware import BODY_FILE
from server.routes.cubes import cube_json
from server.routes.openai import Provided, Tenant
from server.schemas import Name
from server.signing import BundleKeyError

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1")
LOAD_PATH = "/v1/cubes/load"

FileName = Annotated[str, Query(min_length=1, max_length=500)]
# Reading a file may take a minute: so many at once, in threads that nothing else waits for.
_readers = ThreadPoolExecutor(2, thread_name_prefix="document-reader")


def document_json(document: Document) -> dict[str, Any]:
    """A document as the API shows it."""
    shown = asdict(document)
    return {"object": "document", "id": shown.pop("id"), "cube": shown.pop("cube_id"), **shown}


@router.post("/cubes/{cube_id}/documents", status_code=201)
async def add_document(
    cube_id: Name, name: FileName, request: Request, services: Provided, tenant: Tenant
) -> dict[str, Any]:
    """Keep a file (the body, as it is) as memories of kind document. Its content type, else its name, says what it
    is: txt, md, html, pdf, docx. A file of the same name is replaced."""
    id = await services.remembering.cube_id(tenant, None if cube_id == DEFAULT_CUBE else cube_id)
    data, media_type = await request.body(), request.headers.get("content-type")
    add = services.memories.documents.add
    loop = asyncio.get_running_loop()
    done = await loop.run_in_executor(_readers, copy_context().run, add, tenant, id, name, data, media_type)
    removed = await services.remembering.drop_segments(tenant, done.replaced)
    return {
        **document_json(done.document),
        "action": done.action,
        "memories_removed": len(done.replaced),
        "segments_removed": removed,
    }


@router.get("/cubes/{cube_id}/documents")
async def list_documents(cube_id: Name, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """A cube's documents, by name."""
    documents = await asyncio.to_thread(services.memories.documents.all, tenant, cube_id)
    return {"object": "list", "data": [document_json(document) for document in documents]}


@router.delete("/cubes/{cube_id}/documents/{document_id}")
async def delete_document(cube_id: Name, document_id: str, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Delete a document: its memories go out of use, with everything that was computed from them."""
    memories = await asyncio.to_thread(services.memories.documents.delete, tenant, cube_id, document_id)
    removed = await services.remembering.drop_segments(tenant, memories)
    return {
        "object": "document.deleted",
        "id": document_id,
        "deleted": True,
        "memories_removed": len(memories),
        "segments_removed": removed,
    }


@router.get("/cubes/{cube_id}/dump")
async def dump_cube(cube_id: Name, services: Provided, tenant: Tenant, segments: bool = False) -> StreamingResponse:
    """A cube as one file; for its owner, and whom it was shared with for writing. With ``segments`` the pages of its
    memories come along, which are large, for servers with the same bundle key."""
    file = tempfile.TemporaryFile(dir=services.config.data_dir)  # noqa: SIM115 - closed, and so removed, once it is sent
    try:
        await services.bundles.dump(tenant, cube_id, file, segments=segments)
    except BundleKeyError as error:  # what it says of paths is for the log
        file.close()
        log.error("pages cannot be dumped: %s", error)
        told = "This server's bundle key cannot be used, so that no page can be dumped; its log says why."
        raise ApiError(500, told, "bundle_key_failed", type="server_error") from error
    except OSError as error:
        file.close()
        log.error("a cube cannot be dumped: %s", error.strerror or error)
        raise ApiError(507, "There is no room for the dump.", "storage_full", type="server_error") from error
    except BaseException:
        file.close()
        raise
    size = file.tell()
    headers = {"Content-Length": str(size), "Content-Disposition": 'attachment; filename="cube.zip"'}
    file.seek(0)
    return StreamingResponse(_parts(file), media_type="application/zip", headers=headers)


def _parts(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while part := file.read(1 << 18):
            yield part


@router.post(LOAD_PATH.removeprefix(router.prefix), status_code=201)
async def load_cube(name: Name, request: Request, services: Provided, tenant: Tenant) -> dict[str, Any]:
    """Make a new cube from a dump (the body, as it is). Pages that come along are taken where this server's bundle key
    signed them for this tenant and model; those of the other memories that had some are built in idle time."""
    loaded, taken = await services.bundles.load(tenant, name, request.scope[BODY_FILE])
    segments = {"taken": taken.taken, "left": taken.left.total(), "reasons": dict(taken.left)}
    return {**cube_json(loaded.cube, tenant), "memories": loaded.n_memories, "segments": segments}
