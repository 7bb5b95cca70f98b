"""All caches of a web process together are bounded by FOLLOWS_CACHE_MB: their shares, and what they really take."""

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import pytest

from api.auth.claims import Caller
from api.auth.tokens import AuthSettings, TokenVerifier
from api.kraken.render import followers_page
from api.kraken.schemas import FollowersPage, PageLinks
from api.rate_limit import CALLER_BYTES, RateLimit
from api.services import Services
from api.v1.schemas import Pagination, listing
from commands.cache_budget import CACHE_MB, SHARES, CacheBudget
from commands.errors import SettingsError
from commands.users import Profile
from projections.keys import member
from queries.follows import RawPage
from queries.profile_cache import CachedProfile, ProfileCache
from tests.support.in_process import InProcess

BYTES = 1_000_000


@dataclass
class Taken:
    """What was allocated in a block and is still there."""

    bytes: int = 0


@contextmanager
def measured() -> Iterator[Taken]:
    taken = Taken()
    gc.collect()
    tracemalloc.start()
    try:
        yield taken
        gc.collect()
        taken.bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_shares_are_parts_of_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two caches have the same share, and none is without one."""
    assert CacheBudget.from_env() == CacheBudget(CACHE_MB) and sum(SHARES.values()) == CACHE_MB
    monkeypatch.setenv("FOLLOWS_CACHE_MB", "128")
    budget = CacheBudget.from_env()
    assert sum(budget.share(name) for name in SHARES) == 128_000_000
    assert all(budget.share(name) == 2_000_000 * part for name, part in SHARES.items())
    monkeypatch.setenv("FOLLOWS_CACHE_MB", "x")
    with pytest.raises(SettingsError, match="FOLLOWS_CACHE_MB must be 0 to"):
        CacheBudget.from_env()


async def test_every_cache_of_the_process_has_its_share(service: InProcess) -> None:
    """The shares are read from the environment at the start. The process has no other bounded cache."""
    services, share = service.services, CacheBudget().share
    assert isinstance(services, Services)
    reader = services.reader
    assert reader.copies.kept.bytes_max == share("pages")
    assert reader.profile_cache.profiles.bytes_max == share("profiles")
    assert reader.numbers_by_id.bytes_max == share("ids")
    assert reader.numbers_by_login.bytes_max == share("logins")
    assert reader.long_lists.kept.bytes_max == share("sorted lists")
    assert services.directory.numbers.bytes_max == share("directory")
    assert services.verifier.verified.bytes_max == share("tokens")
    assert services.limit.callers_max * CALLER_BYTES <= share("callers")


def test_profiles_take_what_they_are_said_to() -> None:
    """With what no dialect, one or both have rendered of them, for small profiles and large ones."""
    for dialects in ("", "v1", "v1 kraken"):
        for bio in (None, "b" * 1_000):
            bytes_max = 3 * BYTES  # enough for the dict itself to have the usual part
            cache = ProfileCache(bytes_max=bytes_max)
            with measured() as taken:
                for number in range(6_000):
                    fill(cache, number, bio, dialects)
            profiles = cache.profiles
            assert profiles.bytes == sum(profile.size for profile in profiles.entries.values()) > 0.9 * bytes_max
            assert 0.6 * bytes_max < taken.bytes < 1.1 * bytes_max, (dialects, bio)


def fill(cache: ProfileCache, number: int, bio: str | None, dialects: str) -> None:
    """Cache a profile, and render it for the lists of these dialects."""
    name = f"user-{number:06}"
    avatar = f"https://avatars.example.com/{name}.png"
    made = Profile(number, f"01J8ZQ{number:020}", name, f"User {number}", 5, 6, avatar_url=avatar, bio=bio)
    raw = bytes(bytearray(msgspec.json.encode(made)))  # without what the encoder has reserved
    profile = cache.renewed(member(number).encode(), None, (raw, number, b"%d:123456" % number), 1.0, keep=True)
    assert isinstance(profile, CachedProfile)
    page = RawPage(1, 1, [member(number).encode()], [b"6"])
    for side in ("followers", "following") if dialects else ():
        listing(side, page, [profile], Pagination(1, 20, 1, 1))
    followers_page(
        FollowersPage(1, PageLinks("", None), "", []), "http://api.example.com/kraken", "me", page, [profile]
    )


def test_tokens_take_what_they_are_said_to() -> None:
    verifier = TokenVerifier(AuthSettings("/nowhere", "issuer"))
    verifier.verified.bytes_max = BYTES
    with measured() as taken:
        for number in range(3_000):
            scopes = frozenset([text.strip() for text in ("user_read ", "user_follows_edit ")])
            id_ = f"01J8ZQ{number:020}"
            caller = Caller(id_, "user", scopes, 10**9 + number, 2 * 10**9 + number, f"user-{number}", f"User {number}")
            verifier.verified.put(b"%032d" % number, caller)
    assert 0.5 * BYTES < taken.bytes < 1.1 * BYTES


async def test_rated_callers_take_what_they_are_said_to(service: InProcess) -> None:
    limit = RateLimit(service.services.redis)
    limit.callers_max = BYTES // CALLER_BYTES
    with measured() as taken:
        for number in range(limit.callers_max):
            limit.part(f"caller:01J8ZQ{number:020}", 29_000_000).used = 1_000 + number
    assert 0.5 * BYTES < taken.bytes < 1.1 * BYTES
