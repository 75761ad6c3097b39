"""Reading files: of which kind they are, and their paragraphs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from memory.errors import UnreadableDocument
from memory.language import parsing
from memory.language.parsing import Block

MAX_DOCUMENT_BYTES = 16 << 20
SUFFIXES = {
    ".txt": "txt",
    ".text": "txt",
    ".md": "md",
    ".markdown": "md",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
    ".docx": "docx",
}
_MEDIA_TYPES = {
    "text/plain": "txt",
    "text/markdown": "md",
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
}
_READ_TIMEOUT_S = 90.0


def kind_of_file(name: str, media_type: str | None) -> str:
    """Return a file's kind: by its media type where that is a known one, else by its name. Raises
    ``UnreadableDocument``."""
    declared = (media_type or "").partition(";")[0].strip().lower()
    kind = _MEDIA_TYPES.get(declared) or SUFFIXES.get(Path(name).suffix.lower())
    if kind is None:
        raise UnreadableDocument(f"Files of this kind cannot be read; those that can: {', '.join(parsing.KINDS)}.")
    return kind


def read_document(data: bytes, kind: str) -> list[Block]:
    """Return the paragraphs of a file. Raises ``UnreadableDocument``."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise UnreadableDocument(f"A document has at most {MAX_DOCUMENT_BYTES >> 20} MiB.")
    if kind in ("txt", "md"):
        try:
            blocks = parsing.parse(data, kind)
        except parsing.Unreadable as error:
            raise UnreadableDocument(f"The file cannot be read: {error}.") from error
    else:
        blocks = _read_apart(data, kind)
    return [Block(text, _storable(b.heading), b.page) for b in blocks if (text := _storable(b.text).strip())]


def _read_apart(data: bytes, kind: str) -> list[Block]:
    """Parse in a process of its own (see ``memory.language.parsing``)."""
    command = [sys.executable, "-I", parsing.__file__, kind]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=_READ_TIMEOUT_S, check=False, env={})
    except subprocess.TimeoutExpired as error:
        raise UnreadableDocument("The file cannot be read: it takes too long.") from error
    if done.returncode < 0:
        raise UnreadableDocument("The file cannot be read: it takes too long or too much memory.")
    if done.returncode or not done.stdout:
        raise UnreadableDocument("The file cannot be read: its parser failed.")
    reply: dict[str, Any] = json.loads(done.stdout)
    if "error" in reply:
        raise UnreadableDocument(f"The file cannot be read: {reply['error']}.")
    return [Block(**block) for block in reply["blocks"]]


def _storable(text: str) -> str:
    """Remove control characters and half characters, which parsers let through."""
    return re.sub("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", " ", text)
