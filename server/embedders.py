"""Embedders by the name that the settings give them."""

from __future__ import annotations

from memory import AS_IT_IS, EndpointEmbedder, FolderEmbedder, HashEmbedder, WholeEmbedder
from server.assets import BUNDLED_EMBEDDER, MULTILINGUAL_EMBEDDER, bundled_embedder_folder, multilingual_embedder_folder


def open_embedder(name: str, endpoint_model: str | None = None, api_key: str | None = None) -> WholeEmbedder:
    """Return the embedder of this name, loaded: ``bundled``, ``multilingual``, ``hash``, a folder or id, or
    the URL of an endpoint, which has a model and perhaps a key. Raises ``AssetError``, ``EmbedderError``."""
    if name == "hash":
        return HashEmbedder()
    if name.startswith(("http://", "https://")):
        return EndpointEmbedder(name, endpoint_model or "default", api_key)
    embedder = _in_folder(name)
    embedder.load()
    return embedder


def _in_folder(name: str) -> FolderEmbedder:
    if name == "bundled":
        return FolderEmbedder(bundled_embedder_folder(), BUNDLED_EMBEDDER, AS_IT_IS)
    if name == "multilingual":
        return FolderEmbedder(multilingual_embedder_folder(), MULTILINGUAL_EMBEDDER)
    return FolderEmbedder(name)
