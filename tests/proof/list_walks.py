"""The lists of both dialects, read page by page to their end."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

PAGE = 100


def lists(client: httpx.Client, user: str) -> Iterator[tuple[str, list[str], int]]:
    """Yield (path, user ids in the list's order, its total) for a user's followers and followed users, per dialect."""
    for kind in ("followers", "following"):
        yield _by_page_number(client, f"/v1/users/{user}/{kind}")
    yield _by_next_link(client, f"/kraken/channels/{user}/follows", "user")
    yield _by_next_link(client, f"/kraken/users/{user}/follows/channels", "channel")


def _by_page_number(client: httpx.Client, path: str) -> tuple[str, list[str], int]:
    rows: list[str] = []
    page = 1
    while True:
        answer = client.get(path, params={"page": page, "per_page": PAGE}).raise_for_status().json()
        rows += [row["id"] for row in answer["data"]]
        if page >= answer["pagination"]["total_pages"]:
            return path, rows, answer["pagination"]["total"]
        page += 1


def _by_next_link(client: httpx.Client, path: str, item: str) -> tuple[str, list[str], int]:
    rows: list[str] = []
    answer = client.get(path, params={"limit": PAGE}).raise_for_status().json()
    total: int = answer["_total"]
    while answer["follows"]:
        rows += [row[item]["name"] for row in answer["follows"]]
        answer = client.get(answer["_links"]["next"]).raise_for_status().json()
    return path, rows, total
