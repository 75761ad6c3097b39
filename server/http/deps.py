"""Dependencies of routes: the services, and the tenant whose request it is."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from engine.base import Engine
from kvcache import SegmentStore
from memory import KeyedRequests, KeyStore, WholeEmbedder
from scheduler import Foresight, Upkeep
from server.config import Config
from server.core.bundles import Bundles
from server.core.chat import ChatService
from server.core.completing import Completions
from server.core.extraction import ServedCompleter
from server.core.memories import MemoryService
from server.http.metrics import Metrics
from server.http.middleware.draining import Requests
from server.http.middleware.gate import TENANT
from server.lock import DataDirLock


@dataclass
class Services:
    """Everything routes work with. The side store is not among it: ``memories`` is the door to that."""

    config: Config
    engine: Engine
    store: SegmentStore
    memories: MemoryService
    embedder: WholeEmbedder
    chat: ChatService
    completions: Completions
    bundles: Bundles
    upkeep: Upkeep
    metrics: Metrics
    served: ServedCompleter
    keys: KeyStore
    keyed: KeyedRequests
    foresight: Foresight | None = None
    lock: DataDirLock | None = None
    draining: bool = False
    requests: Requests = field(default_factory=Requests)
    started_at: float = field(default_factory=time.time)

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        self.served.bind(asyncio.get_running_loop())
        self.memories.start()
        if self.foresight is not None:
            self.foresight.start(self.config.data_dir / "scheduler.json")

    async def close(self) -> None:
        """Close everything, the data folder's lock last. Requests have ended, or fail; jobs are left for the next
        start."""
        self.draining = True
        self.served.stop()
        self.bundles.close()
        await self.memories.stop()
        if self.foresight is not None:
            await self.foresight.close()
        await self.upkeep.close()
        await self.engine.close()
        await self.memories.close()
        if self.lock is not None:
            self.lock.release()


def services_of(request: Request) -> Services:
    """Return the services of the application that a request is for."""
    services: Services = request.app.state.services
    return services


def tenant_of(request: Request) -> str:
    """Return the tenant that the request's key is of."""
    tenant: str = request.scope[TENANT]
    return tenant


Provided = Annotated[Services, Depends(services_of)]
Tenant = Annotated[str, Depends(tenant_of)]
