"""The dialect of MemOS's hosted service, spoken by its own Python client."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.server.dialects import SAID, cubes
from tests.server.running import Running


def test_memos_client_adds_and_finds(memos: Any) -> None:
    added = memos.add_message(SAID, user_id="omar", conversation_id="c1", tags=["work"], info={"scene": "chat"})
    assert added.success
    for _ in range(400):
        status = memos.get_task_status(added.task_id).data
        if status.status != "running":
            break
        time.sleep(0.05)
    assert (status.task_id, status.status) == (added.task_id, "completed")
    done = memos.add_message(
        [{"role": "user", "content": "I prefer tea to coffee.", "chat_time": "2024-05-08 13:56"}],
        user_id="omar",
        conversation_id="c2",
        async_mode=False,
    )
    assert done.status == "completed"
    found = memos.search_memory("Where does he live?", user_id="omar")
    assert "Lisbon" in found.memories[0].memory_value
    assert (found.memories[0].conversation_id, found.memories[0].tags) == ("c1", ["work"])
    assert found.memories[0].info == {"scene": "chat"}
    assert 0 < found.memories[0].relativity <= 1
    assert "tea" in memos.search_memory("tea", user_id="omar").preferences[0].preference
    assert memos.search_memory("tea", user_id="omar", include_preference=False).preferences == []
    assert memos.search_memory("Lisbon", user_id="omar", relativity=0.999).memories == []
    narrowed = memos.search_memory("Lisbon", user_id="omar", filter={"and": [{"info.scene": "other"}]})
    assert narrowed.memories == []


def test_memos_client_reads_messages_and_memories(memos: Any) -> None:
    memos.add_message(SAID, user_id="read", conversation_id="c", async_mode=False)
    messages = memos.get_message(user_id="read", conversation_id="c", message_limit_number=1).messages
    assert [(m.role, m.content) for m in messages] == [("assistant", SAID[1]["content"])]
    page = memos.get_memory(user_id="read", page=1, size=1)
    assert (len(page.memories), page.data.size, page.data.current) == (1, 1, 1)
    assert page.data.total == page.data.pages >= 2
    shown = memos.get_memory_by_id(page.memories[0].id)
    assert shown["data"]["memory_value"] == page.memories[0].memory_value
    changed = memos.update_memory(page.memories[0].id, content="Something else.", title="Else", status="archived")
    assert (changed["data"]["memory_key"], changed["data"]["status"]) == ("Else", "archived")
    assert memos.get_memory(user_id="read").data.total == page.data.total - 1
    assert memos.get_memory(user_id="nobody at all").memories == []


def test_memos_client_agents(memos: Any) -> None:
    memos.add_message([{"role": "user", "content": "The agent's own drum."}], agent_id="bot", async_mode=False)
    memos.add_message(
        [{"role": "user", "content": "A drum of two users."}], user_id=["x1", "x2"], agent_id="bot", async_mode=False
    )
    assert len(memos.search_memory("drum", agent_id="bot").memories) >= 2
    assert len(memos.get_memory(user_id="x1").memories) == len(memos.get_memory(user_id="x2").memories) == 1
    assert memos.delete_memory(agent_id="bot").success
    assert memos.get_memory(user_id="x1").memories == []


def test_memos_client_feedback_and_delete(memos: Any) -> None:
    memos.add_message(SAID, user_id="fb", async_mode=False)
    told = memos.add_feedback(user_id="fb", feedback_content="Actually, I live in Porto.")
    assert (told.success, told.status) == (True, "completed")
    assert memos.get_task_status(told.task_id).data.status == "completed"
    assert "Porto" in memos.search_memory("Where does he live now?", user_id="fb").memories[0].memory_value
    (first, *_) = memos.get_memory(user_id="fb").memories
    assert memos.delete_memory(memory_ids=[first.id]).success
    assert first.id not in [m.id for m in memos.get_memory(user_id="fb").memories]
    assert memos.delete_memory(filter={"and": [{"user_id": "fb"}, {"tags": "none"}]}).success
    assert memos.get_memory(user_id="fb").memories
    assert memos.delete_memory(user_id="fb").success
    assert memos.get_memory(user_id="fb").memories == []


def test_memos_client_chats(server: Running, memos: Any) -> None:
    memos.add_message(SAID, user_id="chat", async_mode=False)
    reply = memos.chat(user_id="chat", conversation_id="c9", query="Where do I live?", max_tokens=4)
    events = [json.loads(line) for line in memos.chat("chat", "c9", "And now?", max_tokens=4, stream=True)]
    assert events[-1] == {"type": "end"}
    assert {event["type"] for event in events[:-1]} == {"text"}
    wait = server.client.post("/product/scheduler/wait", params={"user_name": "chat"}).json()
    assert wait["message"] == "idle"
    said = memos.get_message(user_id="chat", conversation_id="c9").messages
    assert [m.content for m in said if m.role == "user"] == ["Where do I live?", "And now?"]
    # The tiny model writes whatever bytes it likes; a zero is kept as the replacement character.
    answers = [
        text.replace("\x00", "\ufffd") for text in (reply.response, "".join(event["data"] for event in events[:-1]))
    ]
    assert [m.content for m in said if m.role == "assistant"] == [text for text in answers if text.strip()]
    memos.chat(user_id="silent", conversation_id="c", query="Hello?", max_tokens=2, add_message_on_answer=False)
    assert "silent" not in cubes(server)
