"""The text of a file, as paragraphs below their headings: txt, md, html, pdf, docx.

A file may come from anyone. What has a format of its own is therefore parsed in a child process, which is this module
run by its path: with bounds on its time and memory, and with a hook that refuses to open sockets, to start programs and
to open files (but the libraries' own). Nothing of the project is imported here, so that the child starts quickly.
"""

from __future__ import annotations

import io
import json
import re
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from html.parser import HTMLParser
from typing import Any

KINDS = ("txt", "md", "html", "pdf", "docx")
MAX_CHARS = 2_000_000
MAX_PAGES = 2_000
# Of a docx file, which is a zip: what it unpacks to. Its XML becomes a tree that takes many times its size.
_MAX_XML_BYTES = 16 << 20
_MAX_UNPACKED_BYTES = 256 << 20
_MAX_ENTRIES = 10_000
_CPU_S = 30
_MEMORY_BYTES = 2 << 30

_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
# A line that begins anew, where other lines of a paragraph are only wrapped.
_OWN_LINE = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)]|[|>])(?:\s|$)|\s*\|")
_SKIPPED = frozenset("script style template noscript svg title nav iframe object".split())
_LEVELS = {f"h{level}": level for level in range(1, 7)}
_BREAKING = frozenset(
    "p div section article main header footer aside address blockquote pre ul ol li dl dt dd table tr figure "
    "figcaption details summary form fieldset hr body".split()
)


class Unreadable(Exception):
    """The file is damaged, too large, or holds no text; the message says which."""


@dataclass(frozen=True)
class Block:
    """A paragraph, the headings above it (``Guide > Installing``), and its page where the file has pages."""

    text: str
    heading: str = ""
    page: int | None = None


@dataclass
class Outline:
    """Collects blocks below the headings that are open. A heading that nothing stands below is a block itself."""

    blocks: list[Block] = field(default_factory=list)
    chars: int = 0
    _open: list[tuple[int, str]] = field(default_factory=list)
    _bare: bool = False

    def heading(self, level: int, title: str) -> None:
        title = " ".join(title.split())[:200]
        if not title:
            return
        if self._bare and level <= self._open[-1][0]:
            self._add(self._open.pop()[1])
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        self._open.append((level, title))
        self._bare = True

    def text(self, text: str, page: int | None = None) -> None:
        text = text.strip()
        if text:
            self._add(text, page)
            self._bare = False

    def _add(self, text: str, page: int | None = None) -> None:
        self.chars += len(text)
        if self.chars > MAX_CHARS:
            raise Unreadable(f"it has more than {MAX_CHARS} characters")
        self.blocks.append(Block(text, " > ".join(title for _, title in self._open)[:500], page))

    def done(self) -> list[Block]:
        if self._bare:
            self._add(self._open.pop()[1])
        return self.blocks


def parse(data: bytes, kind: str) -> list[Block]:
    """Return the paragraphs of a file, in order. Raises ``Unreadable`` (and, for a damaged file, what a library
    raises)."""
    outline = Outline()
    _PARSERS[kind](data, outline)
    return outline.done()


def decoded(data: bytes) -> str:
    """Decode text in UTF-8, UTF-16 (where it says so) or Windows' encoding of Western languages."""
    encodings = ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "cp1252")
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\x00" not in text:
            return text.replace("\r\n", "\n").replace("\r", "\n")
    raise Unreadable("it is not text in a known encoding")


def _parse_txt(data: bytes, outline: Outline) -> None:
    for paragraph in re.split(r"\n[ \t]*\n\s*", decoded(data)):
        outline.text(paragraph)


def _parse_md(data: bytes, outline: Outline) -> None:
    lines = decoded(data).split("\n")
    if lines[0].strip() == "---" and "---" in (rest := [line.rstrip() for line in lines[1:]]):
        lines = lines[rest.index("---") + 2 :]  # settings for whatever shows the file
    paragraph: list[str] = []

    def end() -> None:
        outline.text("".join(_unwrapped(paragraph)))
        paragraph.clear()

    fence: str | None = None
    for line in lines:
        if fence is not None:
            paragraph.append(line)
            if line.strip().startswith(fence) and not line.strip(" \t" + fence[0]):
                outline.text("\n".join(paragraph))
                paragraph.clear()
                fence = None
        elif opened := _FENCE.match(line):
            end()
            fence = opened[1]
            paragraph.append(line)
        elif heading := _HEADING.fullmatch(line):
            end()
            outline.heading(len(heading[1]), heading[2] or "")
        elif (under := _UNDERLINE.fullmatch(line)) and len(paragraph) == 1 and not _OWN_LINE.match(paragraph[0]):
            outline.heading(1 if under[1][0] == "=" else 2, paragraph.pop())
        elif not line.strip():
            end()
        else:
            paragraph.append(line)
    outline.text("\n".join(paragraph))


def _unwrapped(lines: list[str]) -> Iterator[str]:
    for i, line in enumerate(lines):
        if i:
            yield "\n" if _OWN_LINE.match(line) else " "
        yield line.rstrip() if i == 0 or _OWN_LINE.match(line) else line.strip()


class _Html(HTMLParser):
    """Text between tags that break it; knows nothing of style."""

    def __init__(self, outline: Outline) -> None:
        super().__init__(convert_charrefs=True)
        self._outline = outline
        self._said: list[str] = []
        self._blank = True  # of what was said; a bullet does not count
        self._level: int | None = None
        self._verbatim = False
        self._skipping: str | None = None
        self._skip_depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipping is not None:
            self._skip_depth += tag == self._skipping
        elif tag in _SKIPPED:
            self._skipping, self._skip_depth = tag, 1
        elif tag in _LEVELS:
            self.end()
            self._level = _LEVELS[tag]
        elif tag in _BREAKING:
            self._break(tag)
        elif tag == "br":
            self._said.append("\n")
        elif tag in ("td", "th"):
            self._said.append("" if self._blank else " | ")

    def _break(self, tag: str) -> None:
        if tag == "li" or not (self._blank and self._said):  # a paragraph in an item of a list stays on its line
            self.end()
            self._said += ["- "] if tag == "li" else []
        self._verbatim = tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if self._skipping is not None:
            self._skip_depth -= tag == self._skipping
            if self._skip_depth == 0:
                self._skipping = None
        elif tag in _LEVELS or tag in _BREAKING:
            self.end()

    def handle_data(self, data: str) -> None:
        if self._skipping is None:
            self._said.append(data if self._verbatim else re.sub(r"\s+", " ", data))
            self._blank = self._blank and not data.strip()

    def end(self) -> None:
        """End the paragraph or heading."""
        text, level = "" if self._blank else "".join(self._said), self._level
        self._said, self._blank, self._level = [], True, None
        if level is not None:
            self._outline.heading(level, text)
        elif text:
            lines = text.split("\n") if self._verbatim else [" ".join(line.split()) for line in text.split("\n")]
            self._outline.text("\n".join(lines).strip("\n"))
        self._verbatim = False


def _parse_html(data: bytes, outline: Outline) -> None:
    declared = re.search(rb"<meta[^>]{0,200}charset=[\"']?([A-Za-z0-9_-]{1,40})", data[:2048], re.IGNORECASE)
    try:
        text = data.decode(declared[1].decode()) if declared else decoded(data)
    except (LookupError, UnicodeDecodeError):
        text = decoded(data)
    _feed(text, outline)


def _feed(text: str, outline: Outline) -> None:
    parser = _Html(outline)
    parser.feed(text)
    parser.close()
    parser.end()


def _parse_pdf(data: bytes, outline: Outline) -> None:
    import pypdf

    reader = pypdf.PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise Unreadable("it is locked with a password")
    if len(reader.pages) > MAX_PAGES:
        raise Unreadable(f"it has more than {MAX_PAGES} pages")
    for number, page in enumerate(reader.pages, start=1):
        for paragraph in re.split(r"\n[ \t]*\n\s*", page.extract_text()):
            # Lines are those of the page, and words are cut at their ends.
            outline.text(" ".join(re.sub(r"(?<=[a-z])-\n(?=[a-z])", "", paragraph).split()), number)


def _parse_docx(data: bytes, outline: Outline) -> None:
    import mammoth

    _check_zip(data)
    found: Any = mammoth.convert_to_html(
        io.BytesIO(data), convert_image=mammoth.images.img_element(lambda image: {}), external_file_access=False
    )
    _feed(found.value, outline)


def _check_zip(data: bytes) -> None:
    """Bound what is said to be in an archive: no more is unpacked than that. And Word's XML declares nothing."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        xml = [entry for entry in entries if entry.filename.lower().endswith((".xml", ".rels"))]
        sizes = sum(entry.file_size for entry in entries), sum(entry.file_size for entry in xml)
        if len(entries) > _MAX_ENTRIES or sizes[0] > _MAX_UNPACKED_BYTES or sizes[1] > _MAX_XML_BYTES:
            raise Unreadable("it unpacks to too much")
        if any(b"<!DOCTYPE" in text or b"<!ENTITY" in text for text in map(archive.read, xml)):
            raise Unreadable("its XML declares entities")


_PARSERS = {"txt": _parse_txt, "md": _parse_md, "html": _parse_html, "pdf": _parse_pdf, "docx": _parse_docx}


# -- the child process -----------------------------------------------------------------------------------------


def _confine() -> None:
    """Allow from here on bounded time and memory, no files but the libraries', no sockets, no programs."""
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    own = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    refused = ("socket.", "subprocess.", "ctypes.", "os.exec", "os.fork", "os.spawn", "os.posix_spawn", "os.system")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode = str(arguments[0]), str(arguments[1] or "r")
            if not path.startswith(own) or ".." in path or set(mode) & set("wax+"):
                raise PermissionError("a document's parser opens no files")
        elif event.startswith(refused):
            raise PermissionError("a document's parser reaches nothing")

    sys.dont_write_bytecode = True
    sys.addaudithook(hook)


def _main() -> None:
    """Parse a file: standard input is the file, the argument its kind; standard output is blocks or what is wrong, as
    JSON."""
    import logging
    import warnings

    logging.disable()  # what libraries say of a file may hold its text
    warnings.simplefilter("ignore")
    data, kind = sys.stdin.buffer.read(), sys.argv[1]
    _confine()
    reply: dict[str, Any]
    try:
        reply = {"blocks": [asdict(block) for block in parse(data, kind)]}
    except Unreadable as error:
        reply = {"error": str(error)}
    except MemoryError:
        reply = {"error": "it takes too much memory to read"}
    except Exception as error:  # noqa: BLE001 - whatever a library stumbles over, the file is at fault
        reply = {"error": f"it is damaged ({type(error).__name__})"}
    sys.stdout.buffer.write(json.dumps(reply).encode())


if __name__ == "__main__":
    _main()
