"""JSON-P: answers that call the page's function with what a plain request gets, run by a JavaScript engine if there is
one; and what a page may not do through it."""

import asyncio
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.in_process import InProcess
from tests.support.kraken_users import SCOPES, new_user

NODE = shutil.which("node")
NOTHING = "nothing"
# Defines the function under its whole path, runs the script, and prints what it was called with.
HARNESS = """
const [name, script] = JSON.parse(require("fs").readFileSync(0, "utf8"));
const names = name.split("."), last = names.pop(), calls = [], sandbox = {};
let place = sandbox;
for (const part of names) place = place[part] = {};
place[last] = (...given) => calls.push(given.length ? given[0] : "nothing");
require("vm").runInNewContext(script, sandbox);
console.log(JSON.stringify(calls));
"""


async def called_with(callback: str, script: str) -> Any:
    """Return the argument that the script passes to the function."""
    if NODE is None:
        found = re.fullmatch(re.escape(callback) + r"\((.*)\);", script, re.ASCII)
        assert found is not None and script.isascii()
        return json.loads(found[1]) if found[1] else NOTHING
    with tempfile.TemporaryDirectory() as folder:
        harness = Path(folder) / "harness.js"
        harness.write_text(HARNESS)
        process = await asyncio.create_subprocess_exec(
            NODE, str(harness), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate(json.dumps([callback, script]).encode())
    assert process.returncode == 0, script
    (only,) = json.loads(out)
    return only


async def by_script(client: httpx.AsyncClient, path: str, callback: str = "foo", **parameters: str) -> Any:
    """Return what the page's function receives from the script at this address."""
    answer = await client.get(path, params={"callback": callback, **parameters})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/javascript"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.content.isascii()  # a page in any encoding reads it the same
    return await called_with(callback, answer.text)


@pytest.mark.parametrize("callback", ["foo", "jQuery1_2", "angular.callbacks._0", "$", "a.b.c", "_x.$y"])
async def test_callback_gets_body_of_plain_request(service: InProcess, callback: str) -> None:
    user = await new_user(service)
    path = f"/kraken/users/{user.id}"
    assert await by_script(service.anybody, path, callback) == (await service.anybody.get(path)).json()


async def test_callback_gets_all_characters(service: InProcess) -> None:
    bio = "Zoë \u2028\u2029 \U0001f600 </script> \"'\\ \x7f"
    user = await new_user(service, bio=bio)
    assert (await by_script(service.anybody, f"/kraken/users/{user.id}"))["bio"] == bio


async def test_script_has_documented_bytes(service: InProcess) -> None:
    answer = await service.anybody.get("/kraken/users/x?callback=foo")
    assert answer.text == 'foo({"error":"Not Found","status":404,"message":"User \'x\' does not exist"});'


async def test_errors_in_scripts_have_status_200_and_real_status_in_body(service: InProcess) -> None:
    user = await new_user(service)
    for path, status in (
        ("/kraken/user", 401),
        ("/kraken/users/no-such", 404),
        ("/kraken/no/such/path", 404),
        (f"/kraken/channels/{user.id}/follows?limit=-1", 400),
    ):
        address, _, query = path.partition("?")
        inside = await by_script(service.anybody, address, **dict([query.split("=")] if query else []))
        assert inside["status"] == status and inside["error"]


async def test_put_and_delete(service: InProcess) -> None:
    user, channel = await new_user(service), await new_user(service)
    token = service.token(user.id, scope=SCOPES)
    path = f"/kraken/users/{user.id}/follows/channels/{channel.id}"
    made = await by_script(service.anybody, path, _method="PUT", oauth_token=token, notifications="true")
    assert made["notifications"] is True
    assert made == (await service.anybody.get(path)).json()
    answer = await service.anybody.get(path, params={"callback": "foo", "_method": "delete", "oauth_token": token})
    assert (answer.status_code, answer.text) == (200, "foo();")
    assert await called_with("foo", answer.text) == NOTHING
    assert (await service.anybody.get(path)).status_code == 404
    again = await by_script(service.anybody, path, _method="DELETE", oauth_token=token)
    assert (again["status"], again["message"]) == (422, f"{user.id} is not following {channel.id}")


async def test_method_override_needs_token_in_query(service: InProcess) -> None:
    user, channel = await new_user(service), await new_user(service)
    path = f"/kraken/users/{user.id}/follows/channels/{channel.id}"
    token = service.token(user.id, scope=SCOPES)
    by_header = await by_script(user, path, _method="PUT")
    assert (by_header["status"], by_header["error"]) == (401, "Unauthorized")
    for parameters in ({"_method": "PUT"}, {"_method": "PUT", "oauth_token": token}):
        assert (await user.get(path, params=parameters)).status_code == 404  # without a callback it is a plain GET
    assert (await by_script(user, path, _method="POST", oauth_token=token))["status"] == 404
    assert (await user.put(path, params={"callback": "foo", "_method": "DELETE"})).json()["notifications"] is False
    assert (await by_script(user, path, _method="DELETE"))["status"] == 401
    assert (await service.anybody.get(path)).status_code == 200
    other = service.token((await new_user(service)).id, scope=SCOPES)
    assert (await by_script(user, path, _method="DELETE", oauth_token=other))["status"] == 403


@pytest.mark.parametrize(
    "callback",
    [
        "alert(1)//",
        "a b",
        "a.",
        ".a",
        "1a",
        "a..b",
        "a-b",
        "a[0]",
        "a;b",
        "<script>",
        "ü",
        "a\n",
        "if",
        "a.if.b",
        "a" * 257,
    ],
)
async def test_invalid_callback_returns_400_without_script(service: InProcess, callback: str) -> None:
    user = await new_user(service)
    answer = await user.get("/kraken", params={"callback": callback, "_method": "DELETE"})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["message"] == (
        'The parameter "callback" was malformed: the value must be the name of a JavaScript function'
    )
