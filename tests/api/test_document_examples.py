"""Every example of the OpenAPI document is sent to a running service, and the answer is the one that is written there.

The users and times of /kraken are those that Twitch's own document of version 3 had.
"""

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec
import pytest

from api.document.examples import read_examples
from tests.support.in_process import InProcess
from tests.support.kraken_users import SCOPES
from tests.support.version_3_users import add_users_of_version_3, token_of_version_3
from tests.support.waiting import until

BASE: Final = "https://follows.example.com"
# In the examples: any time of the run.
NOW: Final = "2026-03-15T10:00:00Z"
TIME: Final = re.compile(r"20(?:2[6-9]|[3-9]\d)-\d\d-\d\dT\d\d:\d\d:\d\dZ")
# Headers that HTTP itself defines for every answer, and those for browsers.
UNNAMED: Final = re.compile(r"content-(?:type|length)|cache-control|vary|access-control-.*|x-content-type-options")
# The callers of /v1's directory calls, and of those calls of /kraken that need one.
SERVICE: Final = "platform"
VERSION_3_CALLERS: Final = {"kraken_list_live": "Test_User2"} | dict.fromkeys(
    ("kraken_root", "kraken_show_own_user", "kraken_put_follow", "kraken_end_follow"), "test_user1"
)
DIRECTORY: Final = ("put_user", "put_broadcast", "end_broadcast", "erase_user")


class Call(msgspec.Struct, frozen=True):
    """A call of the document."""

    path: str
    method: str
    operation: dict[str, Any]


class Change(msgspec.Struct, frozen=True):
    """What is sent otherwise than in the example of a call; ``caller`` "" sends no token."""

    parameters: dict[str, str] = {}
    headers: Mapping[str, str] = {}
    body: Any = None
    caller: str | None = None
    role: str | None = None
    scope: str = SCOPES


UNCHANGED: Final = Change()
GUEST: Final = Change(role="guest")
NO_TOKEN: Final = Change(caller="")
TOO_LARGE: Final = Change(body={"bio": "x" * 300_000})


@pytest.fixture(scope="module")
async def users(service: InProcess) -> InProcess:
    """The service with the users of version 3, and what some errors need: a login that is taken, and a follow."""
    await add_users_of_version_3(service)
    (await service.platform.put("/v1/users/carol", json={"username": "carol"})).raise_for_status()
    (await service.as_("dave").post("/v1/users/id-Test_User2/follow")).raise_for_status()
    return service


@pytest.fixture(scope="module")
async def document(service: InProcess) -> dict[str, Any]:
    answer = await service.anybody.get("/docs/openapi.json")
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


@pytest.fixture
async def client(users: InProcess) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=users.app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url=BASE) as made:
        yield made


def calls(document: dict[str, Any]) -> dict[str, Call]:
    """Return operation id -> call."""
    return {
        operation["operationId"]: Call(path, method, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }


def authorization(users: InProcess, name: str, change: Change) -> dict[str, str]:
    """Return the header with the caller's token; without one where the call needs none."""
    if change.caller == "" or (name.startswith(("kraken_", "health_")) and name not in VERSION_3_CALLERS):
        return {}
    if name in VERSION_3_CALLERS:
        made = token_of_version_3(users, change.caller or VERSION_3_CALLERS[name], change.scope)
        return {"Authorization": f"OAuth {made}"}
    is_of_directory = name in DIRECTORY
    role = change.role or ("service" if is_of_directory else "user")
    made = users.token(SERVICE if is_of_directory else change.caller or "alice", role, display_name="Alice")
    return {"Authorization": f"Bearer {made}"}


async def send_example(
    client: httpx.AsyncClient, users: InProcess, call: Call, change: Change = UNCHANGED
) -> httpx.Response:
    """Send the request of a call's example as it is in the document, with a change."""
    operation, path = call.operation, call.path
    given = {one["name"]: one["example"] for one in operation["parameters"] if "example" in one} | change.parameters
    query = {}
    for name, value in given.items():
        text = value if isinstance(value, str) else json.dumps(value)
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", quote(text, safe=""))
        else:
            query[name] = text
    body = change.body
    if body is None and "requestBody" in operation:
        body = operation["requestBody"]["content"]["application/json"]["example"]
    headers = {**authorization(users, operation["operationId"], change), **change.headers}
    return await client.request(call.method.upper(), path, params=query or None, json=body, headers=headers)


def success(call: Call) -> tuple[int, Any]:
    """Return status and body of a call's example; the body is None where the call has none."""
    done = {status: answer for status, answer in call.operation["responses"].items() if status < "300"}
    for status, answer in done.items():
        if "example" in (content := answer.get("content", {}).get("application/json", {})):
            return int(status), content["example"]
    (status,) = done
    return int(status), None


def check_headers(document: dict[str, Any], call: Call, answer: httpx.Response) -> None:
    """Check that an answer has all headers that the document promises, and no other ones."""
    named = call.operation["responses"][str(answer.status_code)]["headers"]
    promised = {name.lower() for name in named if document["components"]["headers"][name]["required"]}
    sent = {name.lower() for name in answer.headers if not UNNAMED.fullmatch(name.lower())}
    allowed = {name.lower() for name in named}
    assert promised <= sent <= allowed, (call.operation["operationId"], answer.status_code, sent, allowed)


async def test_answers_to_the_examples_are_those_of_the_document(
    document: dict[str, Any], users: InProcess, client: httpx.AsyncClient
) -> None:
    """The file's order is a story: a user is made, followed, and erased."""
    found, names = calls(document), list(read_examples())
    assert sorted(names) == sorted(found)

    async def is_well() -> bool:
        return bool((await client.get("/health/ready")).json().get("degraded") == [])

    await until(is_well)  # the state is read once a second
    for name in names:
        answer = await send_example(client, users, found[name])
        status, body = success(found[name])
        assert answer.status_code == status, (name, answer.text)
        assert (json.loads(TIME.sub(NOW, answer.text)) if answer.content else None) == body, name
        check_headers(document, found[name], answer)


@pytest.mark.parametrize(
    ("name", "error", "change"),
    [
        ("follow", "CannotFollowYourself", Change({"user_id": "me"})),
        ("follow", "GuestsMayNotAct", GUEST),
        ("follow", "UserNotFound", Change({"user_id": "nobody"})),
        ("follow", "AlreadyFollowing", Change({"user_id": "id-Test_User2"}, caller="dave")),
        ("follow", "Invalid", Change({"user_id": "carol"}, headers={"Idempotency-Key": ""})),
        ("follow", "Unauthenticated", NO_TOKEN),
        ("unfollow", "NotFollowing", Change({"user_id": "carol"})),
        ("follow_status", "UserNotFound", Change({"user_id": "nobody"})),
        ("follow_status", "Invalid", Change(headers={"Follow-Position": "x"})),
        ("list_followers", "Unauthenticated", NO_TOKEN),
        ("put_user", "Forbidden", Change(role="user")),
        ("put_user", "LoginTaken", Change({"user_id": "carol-2"}, body={"username": "carol"})),
        ("put_user", "BodyTooLarge", TOO_LARGE),
        ("end_broadcast", "NotLive", Change({"user_id": "carol"})),
        ("erase_user", "UserNotFound", Change({"user_id": "nobody"})),
        ("kraken_show_user", "UserNotFound", Change({"user": "nobody"})),
        ("kraken_show_user", "Invalid", Change(headers={"Follow-Position": "x"})),
        ("kraken_show_channel", "ChannelNotFound", Change({"channel": "nobody"})),
        ("kraken_list_followers", "BadCursor", Change({"cursor": "undefined"})),
        ("kraken_show_follow", "FollowNotFound", Change({"user": "test_user1", "target": "carol"})),
        ("kraken_show_own_user", "TokenRequired", NO_TOKEN),
        ("kraken_list_live", "MissingScope", Change(scope="")),
        ("kraken_put_follow", "WrongUser", Change(caller="Test_User2")),
        ("kraken_put_follow", "CannotFollowYourself", Change({"target": "test_user1"})),
        ("kraken_put_follow", "ChannelNotFound", Change({"target": "nobody"})),
        ("kraken_put_follow", "BodyTooLarge", TOO_LARGE),
        ("kraken_end_follow", "NotFollowing", Change({"target": "carol"})),
    ],
)
async def test_errors_are_those_of_the_document(
    document: dict[str, Any], users: InProcess, client: httpx.AsyncClient, name: str, error: str, change: Change
) -> None:
    call = calls(document)[name]
    answer = await send_example(client, users, call, change)
    examples = call.operation["responses"][str(answer.status_code)]["content"]["application/json"]["examples"]
    assert answer.json() == examples[error]["value"]
    check_headers(document, call, answer)
