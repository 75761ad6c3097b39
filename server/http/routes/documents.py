"""Documents of a cube, and cubes as files."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from memory import Document
from server.core.signing import BundleKeyError
from server.http.deps import Provided, Tenant
from server.http.describing import documented
from server.http.errors import ApiError
from server.http.middleware.body import BODY_FILE
from server.http.routes.cubes import cube_json
from server.http.schemas.fields import Name
from server.http.schemas.memory_replies import (
    CubeLoaded,
    DocumentAdded,
    DocumentDeleted,
    DocumentList,
    DocumentReply,
    PagesTaken,
)

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1")
LOAD_PATH = "/v1/cubes/load"

FileName = Annotated[str, Query(min_length=1, max_length=500)]


def document_json(document: Document) -> DocumentReply:
    """Return a document as the API shows it."""
    return {
        "object": "document",
        "id": document.id,
        "cube": document.cube_id,
        "name": document.name,
        "digest": document.digest,
        "n_chunks": document.n_chunks,
        "created_at": document.created_at,
    }


@router.post("/cubes/{cube_id}/documents", status_code=201)
async def add_document(
    cube_id: Name, name: FileName, request: Request, services: Provided, tenant: Tenant
) -> DocumentAdded:
    """Keep a file (the body, as it is) as memories of kind document. Its content type, else its name, says which kind
    of file it is: txt, md, html, pdf, docx. A file of the same name is replaced."""
    data, media_type = await request.body(), request.headers.get("content-type")
    done, removed = await services.memories.documents.add(tenant, cube_id, name, data, media_type)
    return {
        **document_json(done.document),
        "action": done.action,
        "memories_removed": len(done.replaced),
        "segments_removed": removed,
    }


@router.get("/cubes/{cube_id}/documents")
async def list_documents(cube_id: Name, services: Provided, tenant: Tenant) -> DocumentList:
    """List a cube's documents by name."""
    documents = await services.memories.documents.all(tenant, cube_id)
    return {"object": "list", "data": [document_json(document) for document in documents]}


@router.delete("/cubes/{cube_id}/documents/{document_id}")
async def delete_document(cube_id: Name, document_id: str, services: Provided, tenant: Tenant) -> DocumentDeleted:
    """Delete a document, its memories, and everything computed from them."""
    memories, removed = await services.memories.documents.delete(tenant, cube_id, document_id)
    return {
        "object": "document.deleted",
        "id": document_id,
        "deleted": True,
        "memories_removed": len(memories),
        "segments_removed": removed,
    }


@router.get("/cubes/{cube_id}/dump", response_class=StreamingResponse, responses=documented("application/zip"))
async def dump_cube(cube_id: Name, services: Provided, tenant: Tenant, segments: bool = False) -> StreamingResponse:
    """Download a cube as one file, if you own it or may write to it. With `segments` the pages of its memories are
    included, which are large, for servers with the same bundle key."""
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
async def load_cube(name: Name, request: Request, services: Provided, tenant: Tenant) -> CubeLoaded:
    """Create a cube from a dump (the body, as it is). Pages in it are taken if this server's bundle key signed them for
    this tenant and model; the other memories get theirs in idle time."""
    loaded, taken = await services.bundles.load(tenant, name, request.scope[BODY_FILE])
    segments: PagesTaken = {
        "taken": taken.taken,
        "left": taken.left.total(),
        "reasons": dict(taken.left),
    }
    return {**cube_json(loaded.cube, tenant), "memories": loaded.n_memories, "segments": segments}
