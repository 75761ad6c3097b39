from __future__ import annotations

import json
import os
import urllib.request
import uuid
from typing import Any

import pytest

# Nothing that a client would fetch from elsewhere is needed here.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


@pytest.fixture(scope="session")
def url() -> str:
    """The running server's address."""
    found = os.environ.get("RECALLKV_CLIENTS_URL")
    assert found, "make test-clients starts a server, and tells the tests where it is"
    return found


@pytest.fixture(scope="session")
def cube(url: str) -> str:
    """A cube with one memory, which no model could know of."""

    def post(path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    name = f"pets-{uuid.uuid4().hex}"
    post("/v1/cubes", {"name": name})
    post("/v1/memories", {"text": "My dog is called Biscuit.", "cube": name})
    return name
