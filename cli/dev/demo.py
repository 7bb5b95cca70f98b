"""The demo graph of a new `follows up`: three hundred invented users, forty of them channels, eight of these live.

It is always the same, made from a fixed seed, and loaded through the bulk import and the directory.
"""

import asyncio
import random
from datetime import UTC, datetime
from itertools import product
from typing import Final

import msgspec

from commands.bulk_follows import ImportedFollow, connect_import, import_follows
from commands.bulk_users import ImportedUser, import_users
from commands.db.postgres import Engine, PostgresSettings, create_engine
from commands.directory import Directory
from commands.profiles import read_profiles
from commands.users import BroadcastChanges, UserChanges

DEMO_USER: Final = "demo-viewer"
DEMO_CHANNEL: Final = "demo-channel"
# A user that DEMO_USER does not follow yet.
DEMO_STRANGER: Final = "demo-stranger"

SEED: Final = 2013
USER_COUNT: Final = 300
CHANNELS: Final = 40
LIVE: Final = 8
WERE_LIVE: Final = 12
# The n-th most followed user has LARGEST / n ** TAIL followers; that makes some 7,000 follows.
LARGEST: Final = 280
TAIL: Final = 0.6
DEMO_USER_FOLLOWS: Final = 120
FIRST_US: Final = int(datetime(2017, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
LAST_US: Final = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
FIRST_WORDS: Final = (
    *("Amber", "Brisk", "Calm", "Dusty", "Eager", "Fuzzy", "Gentle", "Happy", "Icy", "Jolly", "Keen", "Lucky"),
    *("Mellow", "Nimble", "Odd", "Polite", "Quiet", "Rusty", "Sleepy", "Tidy", "Velvet", "Witty", "Young", "Zesty"),
)
SECOND_WORDS: Final = (
    *("Acorn", "Badger", "Comet", "Dolphin", "Ember", "Falcon", "Gecko", "Heron", "Iris", "Jackdaw", "Kettle"),
    *("Lantern", "Maple", "Newt", "Otter", "Pebble", "Quill", "Raven", "Sparrow", "Teapot", "Urchin", "Walnut"),
)
ACTIVITIES: Final = (
    *("Chess", "Gardening", "Glassblowing", "Juggling", "Kite Building", "Lockpicking", "Model Trains", "Origami"),
    *("Pinball", "Speed Knitting", "Stargazing", "Text Adventures"),
)
BIOS: Final = ("Mostly here for {}.", "{} on weekends.", "I try {} so that you need not.", "Twelve years of {}.")
TITLES: Final = ("{} until midnight", "First steps in {}", "{} with viewers", "Another try at {}", "{}, calmly")
LANGUAGES: Final = ("en", "en", "en", "de", "es", "fr", "pt-br", "ja")


def load_demo(settings: PostgresSettings) -> None:
    """Load the graph into the log; loading it again changes nothing. Raises LogUnavailable."""
    chance = random.Random(SEED)  # noqa: S311 - it must be the same every time
    people = demo_users(chance)
    follows = demo_follows(chance, [person.id for person in people])
    with connect_import(settings) as connection:
        import_users(connection, people)
        import_follows(connection, follows)
    asyncio.run(_broadcast(settings, people[:CHANNELS]))


def demo_users(chance: random.Random) -> list[ImportedUser]:
    """Return the users, the most followed first; the first ``CHANNELS`` have the fields of a channel."""
    pairs = chance.sample(list(product(FIRST_WORDS, SECOND_WORDS)), USER_COUNT - 3)
    names = ["Demo_Channel", *("".join(pair) for pair in pairs), "Demo_Stranger", "Demo_Viewer"]
    ids = [DEMO_CHANNEL, *(_id(chance) for _ in pairs), DEMO_STRANGER, DEMO_USER]
    return [
        ImportedUser(place + 1, id_, _fields(chance, name, is_channel=place < CHANNELS))
        for place, (id_, name) in enumerate(zip(ids, names, strict=True))
    ]


def demo_follows(chance: random.Random, ids: list[str]) -> list[ImportedFollow]:
    """Return the follows, oldest first: a few users have very many followers, most have a few."""
    pairs = set()
    for place, followed in enumerate(ids):
        others = [id_ for id_ in ids if id_ != followed]
        pairs |= {(id_, followed) for id_ in chance.sample(others, int(LARGEST / (place + 1) ** TAIL))}
    pairs = {pair for pair in pairs if pair[0] != DEMO_USER}
    pairs |= {(DEMO_USER, followed) for followed in ids[:DEMO_USER_FOLLOWS]}
    times = sorted(chance.randrange(FIRST_US, LAST_US, 1_000_000) for _ in pairs)
    shuffled = chance.sample(sorted(pairs), len(pairs))
    return [
        ImportedFollow(line, follower, followed, time_us, chance.random() < 0.2)
        for line, ((follower, followed), time_us) in enumerate(zip(shuffled, times, strict=True), 1)
    ]


def _fields(chance: random.Random, name: str, *, is_channel: bool) -> UserChanges:
    login = name.lower()
    person = UserChanges(
        username=name,
        display_name=name,
        email=f"{login}@example.com",
        email_notifications=chance.random() < 0.5,
        push_notifications=chance.random() < 0.5,
        avatar_url=f"https://avatars.example.com/{login}.png",
        bio=chance.choice(BIOS).format(chance.choice(ACTIVITIES)).capitalize() if chance.random() < 0.8 else None,
        is_available=chance.random() < 0.3,
    )
    if not is_channel:
        return person
    game, language = chance.choice(ACTIVITIES), chance.choice(LANGUAGES)
    return msgspec.structs.replace(
        person,
        partner=chance.random() < 0.4,
        mature=chance.random() < 0.1,
        status=chance.choice(TITLES).format(game),
        broadcaster_language=language,
        language=language,
        game=game,
        url=f"https://www.example.com/{login}",
        profile_banner=f"https://banners.example.com/{login}.png",
        profile_banner_background_color=f"#{chance.randrange(1 << 24):06x}",
        views=int(1_000_000 * chance.random() ** 3),
    )


def _id(chance: random.Random) -> str:
    """Return an id in the form of a ULID, as most services use."""
    return "01" + "".join(chance.choices(ALPHABET, k=24))


async def _broadcast(settings: PostgresSettings, channels: list[ImportedUser]) -> None:
    """Start a broadcast on some channels and end it again on all but ``LIVE`` of them."""
    engine = create_engine(settings)
    chance = random.Random(SEED)  # noqa: S311
    try:
        directory = Directory(engine)
        picked = [channels[0], *chance.sample(channels[1:], LIVE + WERE_LIVE - 1)]
        silent = await _never_live(engine, directory, picked)
        for place, channel in enumerate(picked):
            if channel.id in silent:
                await directory.put_broadcast(channel.id, _on_air(chance, channel.changes, place))
            if channel.id in silent and place >= LIVE:
                await directory.end_broadcast(channel.id)
    finally:
        await engine.dispose()


async def _never_live(engine: Engine, directory: Directory, channels: list[ImportedUser]) -> set[str]:
    """Return the ids of channels that have never been live, so that a repeated load starts no broadcast again."""
    known = await read_profiles(engine, [await directory.number(channel.id) for channel in channels])
    return {profile.id for profile in known.values() if profile.last_broadcast_at is None}


def _on_air(chance: random.Random, channel: UserChanges, place: int) -> BroadcastChanges:
    fields = msgspec.to_builtins(channel)
    return BroadcastChanges(
        game=fields["game"],
        title=fields["status"],
        viewers=chance.randrange(5, 4_000) // (place + 1),
        language=fields["language"],
        average_fps=chance.choice((30.0, 59.94, 60.0)),
        video_height=chance.choice((720, 1080)),
        is_playlist=place == LIVE - 1,
        preview=f"https://previews.example.com/{fields['username'].lower()}-{{width}}x{{height}}.jpg",
    )
