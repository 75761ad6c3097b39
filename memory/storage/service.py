"""The groups of a storage backend that the server needs: jobs, API keys, requests with keys of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from memory.storage.records import KeyedRequest
from memory.types import Job, JobStatus, KeyInfo


class Jobs(Protocol):
    """Jobs in order. An *open* one is waiting or running."""

    def insert(self, job: Job) -> None:
        """Write a new job that may begin at once."""
        ...

    def get(self, id: str, tenant: str | None = None) -> Job | None:
        """Return a job; a tenant's only, where one is given."""
        ...

    def of_tenant(self, tenant: str, *, open_only: bool, limit: int) -> list[Job]:
        """Return a tenant's jobs, the newest first."""
        ...

    def open_payloads(self, tenant: str, kind: str) -> list[tuple[str, dict[str, Any]]]:
        """Return id and payload of a tenant's open jobs of a kind."""
        ...

    def counts(self) -> dict[str, int]:
        """Count jobs by status."""
        ...

    def first(self, now: float) -> Job | None:
        """Return the first job that is waiting and may begin, or whose lease has ended."""
        ...

    def lease(self, id: str, until: float) -> None:
        """Say that a job runs, once more, until this time."""
        ...

    def release_all(self) -> int:
        """Make running jobs wait again; return how many."""
        ...

    def cancel(self, tenant: str, id: str) -> None:
        """Cancel a job that has not begun."""
        ...

    def retry(self, id: str, not_before: float, error: str) -> None:
        """Make a job wait again until this time."""
        ...

    def end(self, id: str, status: JobStatus, *, result: Any = None, error: str | None = None) -> bool:
        """End a job and forget its payload; tell if it was open."""
        ...

    def remove_ended(self, before: float) -> int:
        """Remove jobs that ended before this time; return how many."""
        ...


class Keys(Protocol):
    """API keys by their hashes."""

    def insert(self, hash: str, key: KeyInfo) -> None:
        """Write a new key. Raises ``Conflict`` when there is one of that name."""
        ...

    def tenant_of(self, hash: str) -> str | None:
        """Return the tenant of a key."""
        ...

    def all(self) -> list[KeyInfo]:
        """Return all keys, in order of creation."""
        ...

    def remove(self, name: str) -> bool:
        """Remove a key; tell if there was one."""
        ...


class Requests(Protocol):
    """Requests with keys of their own. A reply that may quote texts goes with the first text of a cube that the request
    looked into that goes, whoever removes that: the backend sees to it."""

    def find(self, tenant: str, key: str) -> KeyedRequest | None:
        """Return a tenant's request with a key."""
        ...

    def get(self, number: int) -> KeyedRequest | None:
        """Return a request."""
        ...

    def insert(self, tenant: str, key: str, request: str, at: float, *, quotes: bool) -> int:
        """Write a new request; return its number."""
        ...

    def answer(self, number: int, status: int, headers: Mapping[str, str], body: bytes | None) -> None:
        """Write a request's reply; without a body where that is not to be kept."""
        ...

    def note_cubes(self, number: int, cube_ids: Iterable[str]) -> None:
        """Say which cubes a request looked into."""
        ...

    def remove(self, numbers: Sequence[int]) -> None:
        """Remove requests."""
        ...

    def empty(self, numbers: Sequence[int]) -> None:
        """Remove the replies of requests."""
        ...

    def older(self, at: float) -> list[int]:
        """Return the requests that were made before this time."""
        ...

    def sizes(self) -> list[tuple[str, int, int]]:
        """Return, for each tenant, the number of requests and the bytes of their replies."""
        ...

    def beyond_count(self, tenant: str, limit: int) -> list[int]:
        """Return a tenant's requests that are older than its last ``limit``."""
        ...

    def beyond_bytes(self, tenant: str, limit: int) -> list[int]:
        """Return a tenant's requests that are older than those whose replies fit into ``limit`` bytes together."""
        ...
