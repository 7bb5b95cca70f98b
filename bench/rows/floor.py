"""The no-op side of the HTTP rows. Not a row itself."""

import httpx

from bench.requests import Request, Requests
from bench.stage import Stage
from bench.turns import Side


def reading(stage: Stage, requests: Requests) -> Side:
    """A no-op GET with the very paths and headers of the status row, whatever ``requests`` ask of ours."""
    like = [Request(f"/v1/users/{id_}/follow-status", 0) for id_ in stage.graph.ids[:1000]]
    return Side(stage.noop(), Requests(like, requests.tokens or [stage.token("nobody")]), _is_read, ["noop"])


def writing(stage: Stage, requests: Requests) -> Side:
    """A no-op POST with the paths and headers of ours."""
    return Side(stage.noop(), Requests(requests.items, requests.tokens), _is_written, ["noop"])


def _is_read(_: Request, answer: httpx.Response) -> None:
    assert answer.status_code == 200 and answer.json()["is_following"] is True, answer.text


def _is_written(_: Request, answer: httpx.Response) -> None:
    assert answer.status_code == 201 and answer.json()["created_at"], answer.text
