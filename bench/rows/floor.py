"""The no-op side of the HTTP rows; not a row itself."""

import httpx

from bench.comparison import Side
from bench.requests import Request, Requests
from bench.testbed import Testbed


def reading(testbed: Testbed, requests: Requests) -> Side:
    """Return a no-op GET with the paths and headers of the row ``status``, whatever ``requests`` are."""
    like = [Request(f"/v1/users/{id_}/follow-status", 0) for id_ in testbed.graph.ids[:1000]]
    return Side(testbed.noop(), Requests(like, requests.tokens or [testbed.token("nobody")]), _is_read, ["noop"])


def writing(testbed: Testbed, requests: Requests) -> Side:
    """Return a no-op POST with the paths and headers of ``requests``."""
    return Side(testbed.noop(), Requests(requests.items, requests.tokens), _is_written, ["noop"])


def _is_read(_: Request, answer: httpx.Response) -> None:
    assert answer.status_code == 200 and answer.json()["is_following"] is True, answer.text


def _is_written(_: Request, answer: httpx.Response) -> None:
    assert answer.status_code == 201 and answer.json()["created_at"], answer.text
