"""Hooks that schemathesis loads: values that only the service can make, which no schema can describe."""

from typing import Any

import schemathesis

# A cursor that no list has: its digits are a possible time and user number.
CURSOR = "35338714040000010000000000000000086"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Replace generated positions and cursors that look right by ones that the service might have returned.

    A position after the log's end is rightly a 503, and a made-up cursor a 400; other tests assert both. A number
    written 5.0 is an integer to JSON Schema only, so it is sent as 5. A blank cursor counts as none, for old clients,
    and no document tells new ones to send it: another text is sent in its place, which must be refused.
    """
    headers, query = case.headers or {}, case.query or {}
    if str(headers.get("Follow-Position", "")).isdigit():
        headers["Follow-Position"] = "1"
    cursor = query.get("cursor")
    if isinstance(cursor, str) and not cursor.strip():
        query["cursor"] = "blank"
    elif isinstance(cursor, str) and len(cursor) == len(CURSOR) and cursor.isascii() and cursor.isdigit():
        query["cursor"] = CURSOR
        if query.get("sortby") in ("login", "last_broadcast"):  # a cursor leads through the order of created_at only
            query["sortby"] = "created_at"
    if isinstance(case.body, dict):
        whole = {
            name: int(value) for name, value in case.body.items() if isinstance(value, float) and value.is_integer()
        }
        case.body.update(whole)
