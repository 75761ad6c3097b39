"""What the loads and the saves of one rank share."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.vllm.hosted import Hosted
from engine.vllm.outbox import Outbox
from engine.vllm.paged import PagedCache
from engine.vllm.streams import Streams
from kvcache import Fingerprint
from kvcache.files.folder import SegmentFolder
from kvcache.shard import Shard


@dataclass(frozen=True, eq=False)
class Rank:
    """``shard``: the layers and heads that the rank has."""

    folder: SegmentFolder
    fingerprint: Fingerprint
    cache: PagedCache
    shard: Shard
    hosted: Hosted
    streams: Streams
    outbox: Outbox = field(default_factory=Outbox)
