"""Links and paths in Markdown pages: do they lead somewhere?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = "server|scheduler|memory|engine|kvcache|benchmarks|tests|configs|docs|examples|tools"
PENDING = "<!-- check at merge -->"
"""A line with this names files of a change that is still under way."""
PLACEHOLDER = "NAME"
"""A path with this is no file but the shape of one."""

_LINK = re.compile(r"\]\((?!https?:|mailto:)(?P<target>[^)\s]+)\)")
_PATH = re.compile(rf"`(?P<path>(?:{FOLDERS})/[\w./-]*)`")
_MODULE = re.compile(rf'(?:python -m |from |module_path": ")(?P<module>(?:{FOLDERS})(?:\.\w+)*)(?!\.|/)')
_HEADING = re.compile(r"^#+ +(?P<words>.+)$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading["words"].strip().lower()).replace(" ", "-")
        for heading in _HEADING.finditer(text)
    }


def _lacks(page: Path, target: str) -> bool:
    """Say whether a link of ``page`` leads to a file or a heading that does not exist."""
    name, _, anchor = target.partition("#")
    path = page.parent / name if name else page
    return not path.exists() or (bool(anchor) and anchor not in anchors(path.read_text()))


def _module_exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def _missing_in_line(page: Path, line: str) -> Iterator[str]:
    yield from (link["target"] for link in _LINK.finditer(line) if _lacks(page, link["target"]))
    paths = (found["path"] for found in _PATH.finditer(line) if PLACEHOLDER not in found["path"])
    yield from (path for path in paths if not (ROOT / path).exists())
    yield from (found["module"] for found in _MODULE.finditer(line) if not _module_exists(found["module"]))


def missing_in(page: Path) -> list[str]:
    """Return the relative links, file paths and modules that ``page`` names and that do not exist."""
    lines = (line for line in page.read_text().splitlines() if PENDING not in line)
    return [name for line in lines for name in _missing_in_line(page, line)]
