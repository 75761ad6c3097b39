"""Standing instructions, secrets, and wishes to forget, over HTTP."""

from __future__ import annotations

from typing import Any

from tests.server.running import Running


def say(server: Running, cube: str, *texts: str) -> list[dict[str, Any]]:
    body = {"cube": cube, "messages": [{"role": "user", "content": text} for text in texts]}
    reply = server.client.post("/v1/memories/messages", json=body)
    assert reply.status_code == 201, reply.text
    placed: list[dict[str, Any]] = reply.json()["data"]
    return placed


def new_cube(server: Running, name: str) -> str:
    reply = server.client.post("/v1/cubes", json={"name": name})
    assert reply.status_code in (200, 201), reply.text
    return str(reply.json()["id"])


def test_an_instruction_is_in_every_receipt(server: Running) -> None:
    cube = new_cube(server, "instructed")
    facts = [
        "I keep bees.",
        "My sister skates.",
        "The attic leaks.",
        "I read maps.",
        "We grow hops.",
        "I fish at night.",
    ]
    (placed,) = say(server, cube, "Please always answer in British English.")
    say(server, cube, *facts)
    for question in ("What is 17 times 23?", "Give me a recipe for pancakes.", "Who skates?"):
        receipt = server.chat(question, memory={"cube": cube}).json()["memory"]
        assert {m["id"]: m["why"] for m in receipt["memories"]}[placed["id"]] == "standing"
        assert "instructions_left_out" not in receipt
    many = [f"Never mention {animal} to me." for animal in "ants bats cats cods cows dogs eels elks emus gnus".split()]
    more = [f"Never suggest {food} to me." for food in "rice figs nuts eggs kale corn tofu beef".split()]
    say(server, cube, *many, *more)
    receipt = server.chat("hello", memory={"cube": cube}).json()["memory"]
    assert placed["id"] in receipt["instructions_left_out"]
    listed = server.client.get("/v1/memories", params={"cube": cube, "kind": "instruction"}).json()["data"]
    assert len(listed) == 1 + len(many) + len(more)


def test_an_instruction_is_a_preference_to_other_clients(server: Running) -> None:
    body = {"user_id": "instructor", "messages": "Always answer in rhymes.", "async_mode": "sync"}
    assert server.client.post("/product/add", json=body).status_code == 200
    found = server.client.post("/product/search", json={"user_id": "instructor", "query": "rhymes"}).json()["data"]
    assert "Always answer in rhymes." in str(found["pref_mem"])


def test_a_secret_reaches_neither_memory_nor_prompt(server: Running) -> None:
    cube = new_cube(server, "secretive")
    secret = "sk-live-0a1b2c3d4e5f6a7b8c9d0e1f"
    (placed,) = say(server, cube, f"The billing password is Hase-4711 and the API key is {secret}.")
    assert placed["masked"]
    added = server.client.post("/v1/memories", json={"cube": cube, "text": f"key {secret}"}).json()
    assert (added["text"], added["masked"]) == ("key [secret]", True)
    for path in ("/v1/memories", "/v1/messages"):
        text = server.client.get(path, params={"cube": cube}).text
        assert secret not in text
        assert "4711" not in text
        assert "[secret]" in text
    queued = {"cube": cube, "wait": False, "messages": [{"role": "user", "content": f"My token: {secret}"}]}
    assert server.client.post("/v1/memories/messages", json=queued).status_code == 202
    mem0 = {"user_id": "secretive", "messages": [{"role": "user", "content": f"My token is {secret}"}], "infer": False}
    assert secret not in server.client.post("/v1/memories/", json=mem0).text


def test_a_wish_to_forget_drops_segments_and_is_told(server: Running) -> None:
    cube = new_cube(server, "forgetful")
    phone = server.add("My phone number is 555 0142.", cube=cube)
    (done,) = say(server, cube, "delete my phone number")
    assert (done["action"], done["id"]) == ("deleted", phone["id"])
    assert f"{phone['id']}@1" not in server.memories.active_labels()
    assert server.client.get(f"/v1/memories/{phone['id']}").status_code == 404
    assert server.client.post(f"/v1/memories/{phone['id']}/undelete").status_code == 200
    server.add("My other phone number is 555 0199.", cube=cube)
    reply = server.client.post("/v1/feedback", json={"cube": cube, "text": "forget my phone number"}).json()
    assert {step["action"] for step in reply["actions"]} == {"asked"}
    reply = server.client.post(
        "/v1/feedback", json={"cube": cube, "text": "forget my phone number", "memory_ids": [phone["id"]]}
    ).json()
    assert reply["actions"] == [{"action": "deleted", "memory": phone["id"]}]
