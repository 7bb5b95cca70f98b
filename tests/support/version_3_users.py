"""The users of the examples in the document of Twitch's API v3, one of them live, and their follows."""

from typing import Final

import psycopg
from psycopg.types.json import Jsonb

from tests.support.in_process import InProcess
from tests.support.kraken_users import LONG_AGO, SCOPES, follow_since

PICTURES: Final = "http://static-cdn.jtvnw.net"
USER1, USER2, CHANNEL = 21_229_404, 40_091_581, 12_345

CHANNEL_FIELDS: Final = {
    "mature": False,
    "status": "test status",
    "broadcaster_language": "en",
    "game": "Gaming Talk Shows",
    "delay": 0,
    "language": "en",
    "avatar_url": f"{PICTURES}/jtv_user_pictures/test_channel-300x300.jpeg",
    "banner": f"{PICTURES}/jtv_user_pictures/test_channel-640x125.png",
    "video_banner": f"{PICTURES}/jtv_user_pictures/test_channel-640x360.png",
    "profile_banner": f"{PICTURES}/jtv_user_pictures/test_channel-480.png",
    "partner": True,
    "url": "http://www.twitch.tv/test_channel",
    "views": 49_144_894,
}
BROADCAST: Final = {
    "game": "StarCraft II: Heart of the Swarm",
    "viewers": 2123,
    "average_fps": 29.9880749574,
    "video_height": 720,
    "preview": f"{PICTURES}/previews-ttv/live_user_test_channel-{{width}}x{{height}}.jpg",
}


async def add_users_of_version_3(service: InProcess) -> None:
    """Add the document's users, the channel live, and its two followers."""
    times = {
        "test_user1": (USER1, "2011-06-03T17:49:19Z", "2012-06-18T17:19:57Z"),
        "Test_User2": (USER2, "2013-02-06T21:21:57Z", "2013-02-13T20:59:42Z"),
        "test_channel": (CHANNEL, "2007-05-22T10:39:54Z", "2015-02-12T04:15:49Z"),
    }
    profiles = {
        "test_user1": {"email": "asdf@asdf.com", "partner": True, "email_notifications": True, "bio": "woo"},
        "Test_User2": {"bio": "test user's bio"},
        "test_channel": CHANNEL_FIELDS,
    }
    with psycopg.connect(service.services.postgres.database_url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(log_lock())")
        for name, (number, created, updated) in times.items():
            connection.execute(
                """INSERT INTO users (number, id, login, display_name, profile, created_at, updated_at)
                OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s, %s, %s, %s, %s)""",
                (number, f"id-{name}", name.lower(), name, Jsonb(profiles[name]), created, updated),
            )
        connection.execute(
            """UPDATE users SET broadcast = %s, broadcast_id = 4989654544, broadcast_started_at = '2015-02-12T04:42:31Z'
            WHERE number = %s""",
            (Jsonb(BROADCAST), CHANNEL),
        )
        connection.execute(
            "SELECT append_own_events(%s, array_fill('UserRegistered'::event_type, ARRAY[3]), %s::jsonb[])",
            ([USER1, USER2, CHANNEL], [None, None, None]),
        )
    await follow_since(service, [(USER2, CHANNEL, LONG_AGO)], notifications=True)
    await follow_since(service, [(USER1, CHANNEL, LONG_AGO - 1_000_000)])


def token_of_version_3(service: InProcess, name: str, scope: str = SCOPES) -> str:
    """Return a token of one of the document's users."""
    return service.token(f"id-{name}", scope=scope, iat=1_336_514_112, exp=4_000_000_000)
