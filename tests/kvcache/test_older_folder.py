"""A folder that version 0.1 has made (commit b4ebbd4, on x86-64) opens with all that is in it.

Made with ``codec="int8"``: a header of three tokens, a memory behind it and turns behind that, all of tenant ``ann``;
a certified page of the memories ``a@1`` and ``b@1``, protected from eviction. The memory was used once.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from kvcache import Catalogue, ModelView, TieredStore, verify_folder
from tests.kvcache.conftest import FINGERPRINT

HEADER, MEMORY, TURNS, PAGE = [1, 2, 3], [4, 5], [9, 10, 11], [4, 5, 6, 7, 8]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(__file__).with_name("folder_of_0_1"), tmp_path / "segments"))


def numbers(tokens: list[int]) -> torch.Tensor:
    """The keys that were stored for these tokens; the values are their opposite."""
    base = torch.tensor([float(token) for token in tokens])[None, None, :, None]
    return (base + torch.arange(4.0) / 8).expand(FINGERPRINT.layout.shape(len(tokens)))


def test_its_segments_are_found_and_read(folder: Path) -> None:
    store = TieredStore(folder, codec="int8")
    view = ModelView(store.catalogue, FINGERPRINT)
    chain = view.start("ann").match([*HEADER, *MEMORY, *TURNS, 12])
    assert [entry.n_tokens for entry in chain] == [3, 2, 3]
    assert [entry.uses for entry in chain] == [0, 1, 0]
    for entry, tokens in zip(chain, (HEADER, MEMORY, TURNS), strict=True):
        loaded = store.load(entry.key, FINGERPRINT)
        assert loaded.tier == "disk"
        assert torch.equal(loaded.segment.keys, numbers(tokens))
        assert torch.equal(loaded.segment.values, -numbers(tokens))
    ((page, part),) = view.behind("ann", HEADER).parts([6, 7, 8])
    assert (part.begin, part.label, page.labels) == (2, "b@1", {"a@1", "b@1"})
    assert page.protected
    assert page.certificate is not None
    assert page.certificate.kl == {"high": 0.1, "fast": 0.2}
    read = store.load(page.key, FINGERPRINT).segment
    torch.testing.assert_close(read.keys, numbers(PAGE), atol=0.05, rtol=0.0)
    assert store.catalogue.stats().quarantined == 0
    store.close()
    assert verify_folder(folder).bad == []


def test_its_memories_can_be_forgotten(folder: Path) -> None:
    catalogue = Catalogue(folder)
    assert len(catalogue.remove_label("a@1")) == 3  # what was computed behind it too
    assert [entry.n_tokens for entry in catalogue.entries()] == [3]
    catalogue.close()
    assert verify_folder(folder).checked == 1


def test_it_is_the_same_without_its_index(folder: Path) -> None:
    (folder / "index.sqlite").unlink()
    catalogue = Catalogue(folder)
    assert sorted(entry.n_tokens for entry in catalogue.entries()) == [2, 3, 3, 5]
    catalogue.close()
