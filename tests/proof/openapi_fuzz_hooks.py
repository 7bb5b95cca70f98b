"""Hooks that schemathesis loads: values that only the service can make, which no schema can describe."""

from typing import Any

import schemathesis

# A cursor that no list has: its digits are a possible time and user number.
CURSOR = "35338714040000010000000000000000086"
BLANK_COUNTS_AS_NONE = ("cursor", "direction", "sortby", "stream_type")
# Served as 100 whatever their size; the document says 64 bits, as languages have no other numbers.
ANY_SIZE = ("limit", "per_page")
INT64_MAX = 2**63 - 1


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Replace generated positions and cursors that look right by ones that the service might have returned.

    A position after the log's end is rightly a 503, and a made-up cursor a 400; other tests assert both. A number
    written 5.0 is an integer to JSON Schema only, so it is sent as 5. Some blank values count as none, for old
    clients, and no document tells new ones to send them: another text is sent in their place, which must be refused.
    So it is with numbers that are too large for the document.
    """
    headers, query = case.headers or {}, case.query or {}
    if str(headers.get("Follow-Position", "")).isdigit():
        headers["Follow-Position"] = "1"
    for name in BLANK_COUNTS_AS_NONE:
        if isinstance(value := query.get(name), str) and not value.strip():
            query[name] = "blank"
    for name in ANY_SIZE:
        if str(value := query.get(name)).isdigit() and int(str(value)) > INT64_MAX:
            query[name] = "too large"
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
