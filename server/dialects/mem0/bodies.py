"""Bodies of mem0's clients."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from server.core.checks import unix_time, within_calendar
from server.dialects import common
from server.dialects.common import ClientIds, PeerMessages, Selection
from server.http.bodies import Body
from server.http.schemas.fields import Name, Text, Time

# The side store has no way to take a time of expiry back; this is as good as none, and shown as none.
NEVER = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
# Whose a memory is, is not changed by its metadata.
_IDENTITY = ("user_id", "agent_id", "run_id", "app_id")


class Ids(Body):
    """Ids of whose memories are meant; in ``filters`` or beside them."""

    user_id: Name | None = None
    agent_id: Name | None = None
    run_id: Name | None = None
    app_id: Name | None = None
    filters: dict[str, Any] | None = None

    @property
    def whose(self) -> ClientIds:
        """Return the ids beside the filters."""
        return ClientIds(self.user_id, self.agent_id, self.run_id, self.app_id)

    @property
    def selection(self) -> Selection:
        """Return the place to look in. Raises a 400 when that is everywhere."""
        place = common.selection_of(self.whose, self.filters)
        return place if self.user_id == "*" else common.limited(place)


class Add(Ids):
    messages: PeerMessages
    metadata: dict[str, Any] | None = None
    infer: bool = True
    timestamp: Time | None = None
    expiration_date: str | None = None
    async_mode: bool = True

    @property
    def to(self) -> ClientIds:
        """Return whom to add for; here ``filters`` only name ids."""
        given = {name: value for name, value in (self.filters or {}).items() if isinstance(value, str) and value}
        return ClientIds(
            self.user_id or given.get("user_id"),
            self.agent_id or given.get("agent_id"),
            self.run_id or given.get("run_id"),
            self.app_id or given.get("app_id"),
        )


class Search(Ids):
    query: Annotated[Text, Field(min_length=1, max_length=10_000)]
    top_k: Annotated[int, Field(ge=1, le=1000)] | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] | None = None
    threshold: float | None = None
    categories: list[Text] | None = None
    reference_date: Time | None = None


class List(Ids):
    categories: list[Text] | None = None
    start_date: Time | None = None
    end_date: Time | None = None
    page: Annotated[int, Field(ge=1)] | None = None
    page_size: Annotated[int, Field(ge=1, le=1000)] | None = None


class Update(Body):
    """A change. No date of expiry (null) takes an earlier one back."""

    null_means = frozenset({"expiration_date"})

    text: Text | None = None
    data: Text | None = None
    metadata: dict[str, Any] | None = None
    timestamp: Time | None = None
    expiration_date: str | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields as the side store takes them."""
        fields: dict[str, Any] = {
            "text": self.data if self.text is None else self.text,
            "metadata": None
            if self.metadata is None
            else {key: value for key, value in self.metadata.items() if key not in _IDENTITY},
            "event_at": unix_time(self.timestamp, "timestamp"),
        }
        if "expiration_date" in self.model_fields_set:
            expires = expiry(self.expiration_date)
            fields["expires_at"] = NEVER if expires is None else expires
        return fields


class BatchUpdate(Update):
    memory_id: str


class UpdateMany(Body):
    memories: Annotated[list[BatchUpdate], Field(min_length=1, max_length=1000)]


class BatchId(Body):
    memory_id: str


class DeleteMany(Body):
    memories: Annotated[list[BatchId], Field(min_length=1, max_length=1000)]


class Feedback(Body):
    memory_id: str
    feedback: Literal["POSITIVE", "NEGATIVE", "VERY_NEGATIVE"] | None = None
    feedback_reason: Text | None = None


def expiry(date: str | None) -> float | None:
    """Return the end of a day given as YYYY-MM-DD; any other time as it is. Raises ``InvalidMemory``."""
    at = unix_time(date, "expiration_date")
    if at is None or date is None or len(date.strip()) != 10:
        return at
    return within_calendar(at + 86_400)
