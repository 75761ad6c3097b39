"""A cube's pages in a bundle and back, with whichever engine the server runs."""

from __future__ import annotations

from tests.server.running import Running
from tests.server.test_bundles import TEXTS, ask, attached, dump, filled, sources, taken
from tests.server.test_fidelity import settle


def test_a_cube_comes_back_with_its_pages(server: Running) -> None:
    """Deleted with all that was computed, and loaded again."""
    cube = filled(server, "there and back")
    data = dump(server, cube)
    assert len(attached(data)) > 0
    gone = server.client.delete(f"/v1/cubes/{cube}").json()
    assert gone["segments_removed"] >= len(attached(data))
    assert taken(server, data, "there and back")["taken"] == len(attached(data))
    built = server.services.upkeep.stats().pages_built
    settle(server)
    assert server.services.upkeep.stats().pages_built == built
    # vLLM composes only behind a header that is stored, and the header went with the cube: one request brings it back.
    found = [sources(ask(server, "there and back", texts)[1]) for texts in ([TEXTS[0]], [TEXTS[2], TEXTS[1]])]
    assert {"disk"} in found
    assert "computed" not in found[-1]
