"""The directory calls, for the platform's own services: profiles, broadcasts, and erasing a person."""

import asyncio
import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from commands.errors import SettingsError
from commands.users import ID_IN_WORDS
from tests.support.in_process import InProcess, Person, in_process, refusal


def of(user: Person) -> str:
    return f"/v1/users/{user.id}"


# ---- callers and their rights


@pytest.mark.parametrize("role", ["user", "guest"])
async def test_directory_calls_of_other_roles_return_403(service: InProcess, role: str) -> None:
    """Also with a body that cannot be read, and about users that do not exist: 403 says nothing of either."""
    ann = await service.person()
    caller = service.as_(ann.id, role=role)
    for path in (of(ann), "/v1/users/nobody", "/v1/users/me"):
        for method, call in (("PUT", ""), ("DELETE", ""), ("PUT", "/broadcast"), ("DELETE", "/broadcast")):
            answer = await caller.request(method, path + call, content=b"no JSON")
            assert refusal(answer) == (403, "forbidden", None), (method, path, call)
    assert (await caller.get(of(ann))).status_code == 200


async def test_admin_may_use_directory_calls(service: InProcess) -> None:
    ann, admin = await service.person(), service.stranger(role="admin")
    assert (await admin.put(of(ann), json={"bio": "x"})).status_code == 200


async def test_service_makes_no_person_of_itself(service: InProcess) -> None:
    """Whether it names itself as me or by its id, and whichever command it sends."""
    machine, ann = service.stranger(role="service", scope="user_read user_follows_edit"), await service.person()
    for method, path in (
        ("PUT", "/v1/users/me"),
        ("PUT", of(machine)),
        ("POST", f"{of(ann)}/follow"),
        ("DELETE", f"{of(ann)}/follow"),
        ("GET", "/kraken/user"),
    ):
        answer = await machine.request(method, path, json={} if method == "PUT" else None)
        assert answer.status_code == 403, (method, path, answer.text)
        assert "service is not a user" in answer.text
    assert (await machine.get(of(machine))).status_code == 404
    assert (await machine.get(f"{of(ann)}/follow-status")).json()["is_following"] is False


async def test_service_that_is_a_user_acts_as_one(service: InProcess) -> None:
    machine, ann = await service.person(role="service"), await service.person()
    assert (await machine.put("/v1/users/me", json={"bio": "a bot"})).status_code == 200
    assert (await machine.follow(ann)).status_code == 201


async def test_admin_may_register_with_me(service: InProcess) -> None:
    assert (await service.stranger(role="admin").put("/v1/users/me", json={})).status_code == 201


# ---- create and change


async def test_put_with_all_fields_creates_user(service: InProcess) -> None:
    new_user = service.stranger()
    fields = {
        "username": "Some_Body",
        "display_name": "Some Body ✓",
        "avatar_url": "https://a.test/b.png",
        "bio": "likes chess",
        "is_available": True,
    }
    answer = await service.platform.put(of(new_user), json=fields)
    assert answer.status_code == 201
    body = answer.json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["created_at"])
    assert body == {
        "id": new_user.id,
        "username": "some_body",
        "display_name": "Some Body ✓",
        "avatar_url": "https://a.test/b.png",
        "bio": "likes chess",
        "is_available": True,
        "followers": 0,
        "following": 0,
        "created_at": body["created_at"],
        "updated_at": body["created_at"],
        "broadcast": None,
    }
    assert answer.text == (await new_user.get("/v1/users/me")).text


async def test_put_without_fields_creates_user(service: InProcess) -> None:
    new_user = service.stranger("Some-One")
    body = (await service.platform.put(of(new_user), json={})).json()
    assert (body["username"], body["display_name"]) == (new_user.id.lower(), new_user.id)
    assert (body["avatar_url"], body["bio"], body["is_available"]) == (None, None, False)


async def test_put_keeps_fields_that_are_not_sent(service: InProcess) -> None:
    ann = await service.person(display_name="Ann", bio="old", avatar_url="https://a.test/a.png")
    answer = await service.platform.put(of(ann), json={"bio": "new"})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["display_name"], body["bio"], body["avatar_url"]) == ("Ann", "new", "https://a.test/a.png")


async def test_put_of_null_clears_field(service: InProcess) -> None:
    ann = await service.person(bio="old", avatar_url="https://a.test/a.png")
    body = (await service.platform.put(of(ann), json={"bio": None, "avatar_url": None})).json()
    assert (body["bio"], body["avatar_url"]) == (None, None)


async def test_put_without_fields_changes_nothing(service: InProcess) -> None:
    ann = await service.person(display_name="Ann")
    body = (await service.platform.put(of(ann), json={})).json()
    assert body["display_name"] == "Ann"


async def test_profile_has_counts_of_both_lists(service: InProcess) -> None:
    ann, bob, cat = await service.people(3)
    for one, other in ((ann, bob), (cat, bob), (bob, cat)):
        await one.follow(other)
    body = (await ann.get(of(bob))).json()
    assert (body["followers"], body["following"]) == (2, 1)
    body = (await service.platform.put(of(bob), json={"bio": "x"})).json()
    assert (body["followers"], body["following"]) == (2, 1)


async def test_taken_username_returns_409_in_any_case(service: InProcess) -> None:
    await service.person(username="grace")
    ann, new = await service.person(username="ada"), service.stranger()
    for who in (ann, new):
        answer = await service.platform.put(of(who), json={"username": "GRACE"})
        assert refusal(answer) == (409, "conflict", None)
    assert (await ann.get(of(ann))).json()["username"] == "ada"
    assert refusal(await ann.get(of(new)))[0] == 404


async def test_put_of_own_username_returns_200(service: InProcess) -> None:
    ann = await service.person(username="hedy")
    assert (await service.platform.put(of(ann), json={"username": "Hedy"})).status_code == 200


async def test_released_username_can_be_taken(service: InProcess) -> None:
    ann, bob = await service.person(username="joan"), await service.person()
    await service.platform.put(of(ann), json={"username": "joan-2"})
    assert (await service.platform.put(of(bob), json={"username": "joan"})).json()["username"] == "joan"


async def test_concurrent_creations_of_one_user_return_201_once(service: InProcess) -> None:
    new = service.stranger()
    answers = await asyncio.gather(*(service.platform.put(of(new), json={"bio": str(n)}) for n in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]


async def test_me_in_directory_calls_is_the_caller(service: InProcess) -> None:
    robot = await service.person("robot", role="service")
    assert (await robot.put("/v1/users/me", json={"display_name": "Robot"})).json()["id"] == robot.id


# ---- what cannot be read

BAD_FIELDS: list[tuple[str, Any]] = [
    ("username", None),
    ("username", ""),
    ("username", "a b"),
    ("username", "ä"),
    ("username", "line\n"),
    ("username", "x" * 65),
    ("username", 5),
    ("display_name", None),
    ("display_name", ""),
    ("display_name", "x" * 129),
    ("display_name", "two\nlines"),
    ("display_name", "line end\n"),
    ("display_name", "bell\x07"),
    ("display_name", "C1\x9b31m"),
    ("display_name", "two\u2028lines"),
    ("email", "a@a.test\r\nBcc: b@b.test"),
    ("avatar_url", "javascript:alert(1)"),
    ("avatar_url", " javascript:alert(1)"),
    ("avatar_url", "java\nscript:alert(1)"),
    ("avatar_url", "data:text/html,x"),
    ("avatar_url", "//a.test/x"),
    ("avatar_url", "https://"),
    ("avatar_url", "https://a.test/\tx"),
    ("avatar_url", "https://a.test/x\n"),
    *((field, "javascript:alert(1)") for field in ("banner", "video_banner", "background", "profile_banner", "url")),
    ("avatar_url", 1),
    ("avatar_url", "x" * 2049),
    ("bio", ["x"]),
    ("bio", "x" * 4097),
    ("bio", "nul\0"),
    ("is_available", "true"),
    ("is_available", 1),
    ("is_available", None),
    ("views", -1),
    ("views", 1.5),
    ("views", "1"),
    ("views", 10**30),
    ("delay", 2**31),
    ("mature", {}),
    ("nope", 1),
    ("id", "x"),
    ("number", 1),
    ("followers", 1),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
async def test_invalid_field_returns_400_with_its_name(service: InProcess, field: str, value: object) -> None:
    ann = await service.person(bio="as it was")
    answer = await service.platform.put(of(ann), json={"bio": "other", field: value})
    status, code, details = refusal(answer)
    assert (status, code, list(details or ())) == (400, "validation_error", [field])
    assert (await ann.get(of(ann))).json()["bio"] == "as it was"


async def test_invalid_field_error_says_what_is_expected(service: InProcess) -> None:
    answer = await service.platform.put("/v1/users/x", json={"bio": 1})
    assert answer.text == (
        '{"error":{"code":"validation_error","message":"the body cannot be read",'
        '"details":{"bio":"must be `str | null`, not `int`"}}}'
    )


@pytest.mark.parametrize("id_", ["a b", "x" * 129, "%00", "%ff", "ä", ".ab", "a%2Fb", "a%0A", "a%25b"])
async def test_put_of_invalid_id_returns_400(service: InProcess, id_: str) -> None:
    answer = await service.platform.put(f"/v1/users/{id_}", json={})
    assert refusal(answer) == (400, "validation_error", {"id": f"must be {ID_IN_WORDS}"})


async def test_texts_of_all_alphabets_are_stored_unchanged(service: InProcess) -> None:
    text = "é ü 漢字 🎲 \u202e \\ \" ' %00 </script> {{x}}"
    lines = f"{text} \x01 \r\n \t"
    ann = await service.person(display_name=text, bio=lines)
    body = (await ann.get(of(ann))).json()
    assert (body["display_name"], body["bio"]) == (text, lines)


@pytest.mark.parametrize("url", ["", "http://a.test", "HTTPS://a.test/ü?x=1&y= z#é", "https://[::1]:80/"])
async def test_addresses_of_pictures_are_stored_unchanged(service: InProcess, url: str) -> None:
    ann = await service.person(avatar_url=url, banner=url)
    assert (await ann.get(of(ann))).json()["avatar_url"] == url


async def test_preview_of_a_broadcast_is_an_address_of_a_picture(service: InProcess) -> None:
    ann = await service.person()
    answer = await service.platform.put(f"{of(ann)}/broadcast", json={"preview": "javascript:alert(1)"})
    assert refusal(answer)[0] == 400 and list(refusal(answer)[2] or ()) == ["preview"]


# ---- broadcasts


async def test_broadcast_begins_changes_and_ends(service: InProcess) -> None:
    ann, path = await service.person(), ""
    path = f"{of(ann)}/broadcast"
    begun = await service.platform.put(path, json={"game": "Chess", "title": "Blitz", "viewers": 7, "language": "en"})
    assert (begun.status_code, begun.content) == (204, b"")
    shown = (await ann.get(of(ann))).json()["broadcast"]
    started_at = shown.pop("started_at")
    assert shown == {"game": "Chess", "title": "Blitz", "viewers": 7, "language": "en"}
    assert (await service.platform.put(path, json={"game": "Go", "viewers": 9})).status_code == 204
    assert (await ann.get(of(ann))).json()["broadcast"] == {
        "started_at": started_at,
        "game": "Go",
        "title": None,
        "viewers": 9,
        "language": None,
    }
    ended = await service.platform.delete(path)
    assert (ended.status_code, ended.content) == (204, b"")
    assert (await ann.get(of(ann))).json()["broadcast"] is None


async def test_end_of_no_broadcast_returns_404(service: InProcess) -> None:
    ann = await service.person()
    assert refusal(await service.platform.delete(f"{of(ann)}/broadcast")) == (404, "not_found", None)


async def test_broadcast_of_unknown_user_returns_404(service: InProcess) -> None:
    for method in ("PUT", "DELETE"):
        for id_ in ("nobody", "%00", "%ff"):
            answer = await service.platform.request(method, f"/v1/users/{id_}/broadcast", json={})
            assert refusal(answer) == (404, "not_found", None), (method, id_)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("viewers", -1),
        ("viewers", "7"),
        ("viewers", 2**31),
        ("game", 1),
        ("game", "\0"),
        ("average_fps", "x"),
        ("a", 1),
    ],
)
async def test_invalid_broadcast_returns_400(service: InProcess, field: str, value: object) -> None:
    ann = await service.person()
    status, code, details = refusal(await service.platform.put(f"{of(ann)}/broadcast", json={field: value}))
    assert (status, code, list(details or ())) == (400, "validation_error", [field])
    assert (await ann.get(of(ann))).json()["broadcast"] is None


# ---- erasing


async def test_erased_user_returns_404_at_once(service: InProcess) -> None:
    ann = await service.person()
    answer = await service.platform.delete(of(ann))
    assert (answer.status_code, answer.content) == (204, b"")
    bob = service.stranger()
    for method, call in (("GET", ""), ("GET", "/followers"), ("GET", "/follow-status"), ("POST", "/follow")):
        assert refusal(await bob.request(method, of(ann) + call)) == (404, "not_found", None), call
    assert refusal(await service.platform.delete(of(ann)))[0] == 404
    assert refusal(await service.platform.put(f"{of(ann)}/broadcast", json={}))[0] == 404


async def test_erasure_of_unknown_user_returns_404(service: InProcess) -> None:
    for id_ in ("nobody", "%00", "%ff", "x" * 200):
        assert refusal(await service.platform.delete(f"/v1/users/{id_}")) == (404, "not_found", None)


async def test_erased_user_leaves_lists_of_others(service: InProcess) -> None:
    ann = await service.person(display_name="Ann the Erased", username="ann_the_erased")
    bob, cat = await service.people(2)
    await ann.follow(bob)
    await cat.follow(ann)
    await cat.follow(bob)
    await service.platform.delete(of(ann))
    between = [await bob.get("/v1/users/me/followers"), await cat.get("/v1/users/me/following")]
    for answer in between:  # until the job has ended the follows, rows and totals agree, without the erased name
        body = answer.json()
        assert len(body["data"]) == body["pagination"]["total"]
        assert "erased" not in answer.text.lower().replace("erased-", "")
        assert ann.id not in [row["id"] for row in body["data"]]
    await service.finish_erasures()
    assert [row["id"] for row in (await bob.get("/v1/users/me/followers")).json()["data"]] == [cat.id]
    assert [row["id"] for row in (await cat.get("/v1/users/me/following")).json()["data"]] == [bob.id]
    assert (await bob.get(of(bob))).json()["followers"] == 1


async def test_erased_id_is_free_after_erasure_has_finished(service: InProcess) -> None:
    ann, bob = await service.person(username="phoenix", bio="was"), await service.person()
    await ann.follow(bob)
    await service.platform.delete(of(ann))
    assert refusal(await service.platform.put(of(ann), json={})) == (409, "conflict", None)
    await service.finish_erasures()
    answer = await service.platform.put(of(ann), json={"username": "phoenix"})
    assert answer.status_code == 201
    body = answer.json()
    assert (body["bio"], body["following"], body["username"]) == (None, 0, "phoenix")
    assert not await ann.follows(bob)
    assert (await ann.follow(bob)).status_code == 201


async def test_erased_channel_is_not_live(service: InProcess) -> None:
    ann = await service.person()
    await service.platform.put(f"{of(ann)}/broadcast", json={"viewers": 3})
    assert (await service.platform.delete(of(ann))).status_code == 204
    assert refusal(await service.platform.delete(f"{of(ann)}/broadcast"))[0] == 404


async def test_erasure_is_noted_first_or_refused(own_settings: dict[str, str], keys: Path, tmp_path: Path) -> None:
    """No user is erased before the file has the note: a full disk, or a file that is gone, is 503."""
    file = tmp_path / "erasures"
    async with in_process({**own_settings, "FOLLOWS_ERASURE_FILE": str(file)}, keys) as noting:
        ann, bob = await noting.people(2)
        assert (await noting.platform.delete(of(ann))).status_code == 204
        assert refusal(await noting.platform.delete(of(ann)))[0] == 404
        assert [json.loads(line)["id"] for line in file.read_text().split()] == [ann.id]
        assert stat.filemode(file.stat().st_mode) == "-rw-------"
        file.unlink()
        file.mkdir()
        assert refusal(await noting.platform.delete(of(bob))) == (503, "unavailable", None)
        assert (await bob.get(of(bob))).status_code == 200
    with pytest.raises(SettingsError, match="Is a directory"):
        async with in_process({**own_settings, "FOLLOWS_ERASURE_FILE": str(file)}, keys):
            pass
