from __future__ import annotations

import contextlib
import io
import socket
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import HashEmbedder, InvalidMemory, MemoryStore, NotFound, UnreadableDocument
from memory.language import parsing
from memory.language.chunking import CHUNK_WORDS, chunks_of, count_words, sentences
from memory.language.parsing import MAX_CHARS, Block
from memory.language.reading import MAX_DOCUMENT_BYTES, kind_of_file, read_document
from tests.memory.files import docx, pdf

T = "tenant"
GUIDE = """---
title: settings of some tool
---
# Guide

The harbour office opens at nine.
It closes at five. ![map](https://example.com/map.png)

## Moving

- Bring the red folder.
- Sign the form.

```sh
# not a heading
make move
```

Setext
------

| berth | depth |
|---|---|
| A1 | 4 m |

# Empty
"""


def seen(data: bytes, kind: str) -> list[tuple[str, str]]:
    return [(block.heading, block.text) for block in read_document(data, kind)]


# -- reading -----------------------------------------------------------------------------------------------------


def test_markdown() -> None:
    assert seen(GUIDE.encode(), "md") == [
        ("Guide", "The harbour office opens at nine. It closes at five. ![map](https://example.com/map.png)"),
        ("Guide > Moving", "- Bring the red folder.\n- Sign the form."),
        ("Guide > Moving", "```sh\n# not a heading\nmake move\n```"),
        ("Guide > Setext", "| berth | depth |\n|---|---|\n| A1 | 4 m |"),
        ("", "Empty"),
    ]


def test_html() -> None:
    page = """<!doctype html><html><head><meta charset="iso-8859-1"><title>Not this</title>
    <script>var x = "<p>not this</p>";</script><style>p {}</style></head><body><nav><a href="/">Not this</a></nav>
    <h1>Caf\xe9 <em>guide</em></h1><p>One &amp; <b>two</b>,<br>three.</p>
    <ul><li>first<li><p>second</p></ul><table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
    <h2>Code</h2><pre>if x:\n    y</pre><img src="http://127.0.0.1:9/x.png">the end"""
    assert seen(page.encode("latin-1"), "html") == [
        ("Caf\xe9 guide", "One & two,\nthree."),
        ("Caf\xe9 guide", "- first"),
        ("Caf\xe9 guide", "- second"),
        ("Caf\xe9 guide", "a | b"),
        ("Caf\xe9 guide", "1 | 2"),
        ("Caf\xe9 guide > Code", "if x:\n    y"),
        ("Caf\xe9 guide > Code", "the end"),
    ]


def test_pdf() -> None:
    blocks = read_document(pdf([["The ferry leaves at", "sun-", "rise."], ["It comes back at noon."]]), "pdf")
    assert blocks == [Block("The ferry leaves at sunrise.", "", 1), Block("It comes back at noon.", "", 2)]


def test_docx() -> None:
    table = "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>left</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
    file = docx([("Heading1", "Rules"), ("", "No running."), ("Heading2", "Pool"), ("", "No diving.")], body=table)
    assert seen(file, "docx") == [("", "left"), ("Rules", "No running."), ("Rules > Pool", "No diving.")]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("\ufeffplain".encode(), "plain"),
        ("gr\xfc\xdfe".encode("cp1252"), "gr\xfc\xdfe"),
        ("wide".encode("utf-16"), "wide"),
        (b"one\r\ntwo\x0c", "one\ntwo"),
    ],
)
def test_text_in_several_encodings(data: bytes, text: str) -> None:
    assert [text for _, text in seen(data, "txt")] == [text]


@pytest.mark.parametrize(
    ("name", "media_type", "kind"),
    [
        ("a.TXT", None, "txt"),
        ("a.b.markdown", "application/octet-stream", "md"),
        ("a", "application/pdf", "pdf"),
        ("a.pdf", "text/html; charset=utf-8", "html"),
    ],
)
def test_kinds(name: str, media_type: str | None, kind: str) -> None:
    assert kind_of_file(name, media_type) == kind


BAD: dict[str, tuple[bytes, str]] = {
    "no PDF": (b"nothing of the kind", "pdf"),
    "half a PDF": (pdf([["hello"]])[:200], "pdf"),
    "no docx": (b"nothing of the kind", "docx"),
    "a zip that is no docx": (docx([])[:300], "docx"),
    "half a docx": (docx([("", "x" * 5000)])[:-200], "docx"),
    "no text": (b"\x00\x01\x02", "txt"),
    "too large": (b"x" * (MAX_DOCUMENT_BYTES + 1), "txt"),
    "too many characters": (b"x " * (MAX_CHARS // 2 + 10), "txt"),
    "entities": (docx([("", "&a;")], prolog='<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/passwd">]>'), "docx"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_named(case: str) -> None:
    with pytest.raises(UnreadableDocument):
        read_document(*BAD[case])
    with pytest.raises(UnreadableDocument):
        kind_of_file("a.exe", None)


def test_a_zip_bomb_is_not_unpacked() -> None:
    packed = io.BytesIO(docx([("", "hello")]))
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("word/more.xml", "w") as bomb:
        for _ in range(64):
            bomb.write(bytes(1 << 20))
    assert len(packed.getvalue()) < 1 << 20
    with pytest.raises(UnreadableDocument, match="unpacks to too much"):
        read_document(packed.getvalue(), "docx")


CONFINED = """
import runpy, socket, sys
parsing = runpy.run_path(sys.argv[1])
parsing["_confine"]()
for attempt in (
    lambda: open("/etc/hostname"),
    lambda: open(sys.argv[1], "w"),
    lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2]))),
    lambda: __import__("os").system("true"),
    lambda: __import__("subprocess").run(["true"]),
):
    try:
        attempt()
    except PermissionError:
        print("refused")
import pypdf.generic, mammoth
try:
    held = bytes(3 << 30)
except MemoryError:
    print("refused")
"""


def test_a_parser_reaches_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        command = [sys.executable, "-I", "-c", CONFINED, parsing.__file__, port]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["refused"] * 6, done.stderr


@pytest.mark.slow
@settings(max_examples=12)
@given(kind=st.sampled_from(["pdf", "docx"]), place=st.floats(0, 1), junk=st.binary(min_size=1, max_size=40))
def test_damaged_files_are_read_or_named(kind: str, place: float, junk: bytes) -> None:
    whole = pdf([["hello there"]]) if kind == "pdf" else docx([("", "hello there")])
    at = int(place * len(whole))
    with contextlib.suppress(UnreadableDocument):
        read_document(whole[:at] + junk + whole[at + len(junk) :], kind)


@given(st.text(max_size=400), st.sampled_from(["txt", "md"]))
def test_any_text_is_read(text: str, kind: str) -> None:
    data = text.encode("utf-8", "replace")
    try:
        blocks = read_document(data, kind)
    except UnreadableDocument:
        assert b"\x00" in data
        return
    if kind == "txt" and text.isprintable():
        assert [word for block in blocks for word in block.text.split()] == text.encode(
            "utf-8", "replace"
        ).decode().split()


# -- chunks ------------------------------------------------------------------------------------------------------


def test_sentences_are_cut_where_they_end() -> None:
    text = 'Dr. Brown came. "Stay!" he said to J. Smith, e.g. by phone. 3.5 m deep? Yes.\nNew line 你好。再见'
    cut = sentences(text)
    assert "".join(cut) == text
    assert [piece.strip() for piece in cut] == [
        "Dr. Brown came.",
        '"Stay!" he said to J. Smith, e.g. by phone.',
        "3.5 m deep?",
        "Yes.",
        "New line 你好。",
        "再见",
    ]


@given(st.lists(st.text(alphabet=st.sampled_from("ab 。.!?\n字-X"), min_size=1, max_size=3000), max_size=6))
def test_chunks_lose_nothing_and_keep_their_size(texts: list[str]) -> None:
    chunks = chunks_of([Block(text) for text in texts])
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join("".join(text.split()) for text in texts)
    assert all(chunk.text.strip() and count_words(chunk.text) <= 2 * CHUNK_WORDS + 60 for chunk in chunks)


def test_sections_are_kept_apart_unless_small() -> None:
    long = "The tide turns twice a day. " * 20
    chunks = chunks_of([Block(long, "A"), Block(long, "B"), Block("Short.", "C"), Block("Short too.", "D")])
    assert [chunk.heading for chunk in chunks] == ["A", "B", "C"]
    assert chunks[0].text.startswith("A\n\nThe tide")
    assert chunks[2].text == "C\n\nShort.\n\nD\n\nShort too."


def test_long_texts_become_chunks_of_even_size() -> None:
    chunks = chunks_of([Block("The tide turns twice a day, and nobody minds it. " * 200)])
    assert all(100 <= count_words(chunk.text) <= 140 for chunk in chunks[:-1])
    assert all(chunk.text.endswith("minds it.") for chunk in chunks)
    endless = chunks_of([Block("word " * 1000), Block("x" * 5000)])
    assert all(count_words(chunk.text) <= 200 for chunk in endless)


# -- keeping -----------------------------------------------------------------------------------------------------


def test_a_document_is_found_by_its_chunks(store: MemoryStore, cube: str) -> None:
    done = store.documents.add(T, cube, "guide.md", GUIDE.encode())
    assert done.action == "added"
    assert store.documents.all(T, cube) == [done.document]
    chunks = store.list_memories(T, cube).items
    assert len(chunks) == done.document.n_chunks
    assert {chunk.kind for chunk in chunks} == {"document"}
    assert chunks[0].metadata == {"document": done.document.id, "name": "guide.md", "chunk": 0, "heading": "Guide"}
    (hit, *_) = store.search(T, "when does the harbour office open?", cube_ids=[cube])
    assert "opens at nine" in hit.memory.text


def test_chunks_follow_each_other(store: MemoryStore, cube: str) -> None:
    pages = [[f"Berth {i} belongs to captain number {i} and is deep."] * 12 for i in range(3)]
    store.documents.add(T, cube, "berths.pdf", pdf(pages))
    chunks = store.list_memories(T, cube).items
    assert len(chunks) == 3
    assert [chunk.follows for chunk in chunks] == [None, chunks[0].id, chunks[1].id]
    assert [chunk.metadata["page"] for chunk in chunks] == [1, 2, 3]


def test_the_same_bytes_change_nothing_and_others_replace(store: MemoryStore, cube: str) -> None:
    first = store.documents.add(T, cube, "a.txt", b"The old harbour is closed.")
    again = store.documents.add(T, cube, "a.txt", b"The old harbour is closed.")
    assert (again.action, again.document, again.replaced) == ("unchanged", first.document, [])
    (old,) = store.list_memories(T, cube).items
    second = store.documents.add(T, cube, "a.txt", b"The new harbour is open.")
    assert (second.action, second.replaced) == ("replaced", [old])
    assert [chunk.text for chunk in store.list_memories(T, cube).items] == ["The new harbour is open."]
    assert [document.id for document in store.documents.all(T, cube)] == [second.document.id]
    assert all("old" not in hit.memory.text for hit in store.search(T, "old harbour closed", cube_ids=[cube]))
    with pytest.raises(NotFound):
        store.documents.delete(T, cube, first.document.id)
    assert [gone.text for gone in store.documents.delete(T, cube, second.document.id)] == ["The new harbour is open."]
    assert store.documents.all(T, cube) == store.list_memories(T, cube).items == []
    assert store.undelete(T, old.id).text == old.text


def test_without_undelete_chunks_are_overwritten(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "m.sqlite", HashEmbedder(), undelete_s=0)
    cube = store.default_cube(T).id
    done = store.documents.add(T, cube, "a.txt", b"The password is walnut.")
    store.documents.delete(T, cube, done.document.id)
    store.close()
    assert b"walnut" not in (tmp_path / "m.sqlite").read_bytes()


def test_a_chunk_that_was_made_a_memory_of_its_own_stays(store: MemoryStore, cube: str) -> None:
    done = store.documents.add(T, cube, "a.txt", b"Keep me.")
    (chunk,) = store.list_memories(T, cube).items
    store.update(T, chunk.id, metadata={})
    assert store.documents.delete(T, cube, done.document.id) == []
    assert store.get(T, chunk.id).text == "Keep me."


def test_the_same_file_from_many_threads_is_kept_once(store: MemoryStore, cube: str) -> None:
    together = threading.Barrier(4)

    def add(_: int) -> str:
        together.wait()
        return store.documents.add(T, cube, "a.md", GUIDE.encode()).action

    with ThreadPoolExecutor(4) as pool:
        actions = sorted(pool.map(add, range(4)))
    assert actions == ["added", "unchanged", "unchanged", "unchanged"]
    (document,) = store.documents.all(T, cube)
    assert len(store.list_memories(T, cube).items) == document.n_chunks


@pytest.mark.parametrize("name", ["", "  ", "a\nb.txt", "x" * 501 + ".txt", "\ud800.txt"])
def test_bad_names(store: MemoryStore, cube: str, name: str) -> None:
    with pytest.raises(InvalidMemory):
        store.documents.add(T, cube, name, b"text", "text/plain")


def test_what_fails_leaves_nothing(store: MemoryStore, cube: str) -> None:
    for data, name in ((b"", "a.txt"), (b" \n ", "a.md"), (b"x", "a.pdf")):
        with pytest.raises(UnreadableDocument):
            store.documents.add(T, cube, name, data)
    assert store.documents.all(T, cube) == store.list_memories(T, cube).items == []
    with pytest.raises(NotFound):
        store.documents.add("other", cube, "a.txt", b"text")
