"""What a view must hold, computed from the tables in the simplest way, and what it holds.

Keys, members and scores are written here independently of the product, so that a fault there is noticed.
"""

import json
from collections import defaultdict
from typing import Any
from zlib import crc32

import msgspec

from commands.users import Broadcast, Profile
from projections.keys import View
from tests.support.fixtures import Plain
from tests.support.log_writes import Connection, rows

Contents = dict[str, Any]

EVENTS = """SELECT subject, object, type::text, data, microseconds(recorded_at)
FROM events ORDER BY position"""
USERS = """SELECT number, id, login, display_name, profile, broadcast, broadcast_id,
microseconds(broadcast_started_at), microseconds(created_at),
microseconds(updated_at), erased_at FROM users"""


def expected(sql: Connection, view: View) -> Contents:
    """Return what each key of the view but the checkpoints must hold, by the log and the directory as they are now."""
    keys: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for (subject, object_), (created_at, flag) in follows(sql).items():
        keys[_key(view, subject, f"following:{subject}")][_member(object_)] = created_at * 2 + flag
        keys[_key(view, object_, f"followers:{object_}")][_member(subject)] = created_at * 2 + flag
    contents: Contents = dict(keys)
    for row in rows(sql, USERS):
        _add_user(contents, view, row)
    return contents


def follows(sql: Connection) -> dict[tuple[int, int], tuple[int, bool]]:
    """Return the follows at the log's end: pair -> (created_at in us, notifications)."""
    found: dict[tuple[int, int], tuple[int, bool]] = {}
    for subject, object_, type_, data, recorded_at in rows(sql, EVENTS):
        fields = data or {}
        if type_ == "UserUnfollowed":
            del found[subject, object_]
        elif type_ in ("UserFollowed", "NotificationsChanged"):
            created_at = fields.get("created_at")
            found[subject, object_] = (
                recorded_at if created_at is None else created_at,
                bool(fields.get("notifications")),
            )
    return found


def actual(raw_redis: Plain, view: View) -> Contents:
    """Return what each key of the view but the checkpoints holds in Redis."""
    contents: Contents = {}
    for key in raw_redis.scan_iter(match="*", count=1000):
        name = key.decode()
        if not name.startswith(f"{{g{view.generation}.") or name.endswith("}:checkpoint"):
            continue
        match raw_redis.type(key):
            case b"zset":
                contents[name] = {
                    member.decode(): int(score) for member, score in raw_redis.zrange(key, 0, -1, withscores=True)
                }
            case b"hash":
                contents[name] = {field.decode(): value.decode() for field, value in raw_redis.hgetall(key).items()}
            case _:
                text = raw_redis.get(key).decode()
                contents[name] = msgspec.json.decode(text, type=Profile) if "}:user:" in name else text
    return contents


def positions(raw_redis: Plain, view: View) -> list[int]:
    """Return the positions of the partitions."""
    return [
        int(raw_redis.hget(f"{{g{view.generation}.{partition}}}:checkpoint", "position"))
        for partition in range(view.partitions)
    ]


def _add_user(contents: Contents, view: View, row: tuple[Any, ...]) -> None:
    number, id_, login, display_name, fields, broadcast, broadcast_id, started_at, created_at, updated_at, erased = row
    own = _key(view, number, f"user:{number}")
    if erased:
        contents[own] = Profile(number, "", "", "", 0, 0, erased=True)
        return
    live = None
    if broadcast is not None:
        live = msgspec.convert({**broadcast, "id": broadcast_id, "started_at": started_at}, Broadcast)
        contents.setdefault(_key(view, number, "live"), {})[_member(number)] = broadcast.get("viewers", 0)
    if started_at is not None:
        contents.setdefault(_key(view, number, "last_broadcast"), {})[_member(number)] = started_at
    plain = {
        "id": id_,
        "login": login,
        "display_name": display_name,
        "created_at": created_at,
        "updated_at": updated_at,
    }
    profile = msgspec.convert({"number": number, **plain, **json.loads(json.dumps(fields))}, Profile)
    contents[own] = msgspec.structs.replace(profile, broadcast=live, last_broadcast_at=started_at)
    contents.setdefault(_key(view, number, "logins"), {})[str(number)] = login
    contents[_key(view, crc32(id_.encode()), f"id:{id_}")] = str(number)
    contents[_key(view, crc32(login.encode()), f"login:{login}")] = str(number)


def _key(view: View, number: int, name: str) -> str:
    return f"{{g{view.generation}.{number % view.partitions}}}:{name}"


def _member(number: int) -> str:
    """Return a member: the count of digits first, one digit for up to eight of them, else 9 and two digits."""
    digits = len(str(number))
    return f"{digits}{number}" if digits <= 8 else f"9{digits:02d}{number}"
