"""Loaded by schemathesis: what a schema cannot say of a value that only the service itself can make."""

from typing import Any

import schemathesis

# A cursor of a list that nobody has: its digits are a time and a number that can be.
CURSOR = "35338714040000010000000000000000086"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Put into the place of made-up positions and cursors such as the service might have given, when they look right.

    A position that no command has given is rightly a 503, and a cursor that nobody gave a 400; the rest of the suite
    asserts both. A whole number written 5.0 is an integer to JSON Schema only.
    """
    headers, query = case.headers or {}, case.query or {}
    if str(headers.get("Follow-Position", "")).isdigit():
        headers["Follow-Position"] = "1"
    cursor = query.get("cursor")
    if isinstance(cursor, str) and len(cursor) == len(CURSOR) and cursor.isascii() and cursor.isdigit():
        query["cursor"] = CURSOR
        if query.get("sortby") in ("login", "last_broadcast"):  # a cursor leads through the order of created_at only
            query["sortby"] = "created_at"
    if isinstance(case.body, dict):
        whole = {
            name: int(value) for name, value in case.body.items() if isinstance(value, float) and value.is_integer()
        }
        case.body.update(whole)
