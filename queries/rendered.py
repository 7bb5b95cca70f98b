"""Pages as the dialects answer with them: rendered once for a copy of a page, and again only for other profiles."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from commands.log.looks import DIRECTORY
from queries.copies import Rendered, RenderedPage
from queries.follows import RawPage
from queries.profile_cache import CachedProfile
from queries.reader import ANY_POSITION, NO_USER, MinPosition, Reader
from queries.users import cached_profiles, oldest_of

_R = TypeVar("_R", bound=Rendered)


async def rendered_page(
    reader: Reader,
    found: RawPage,
    dialect: str,
    request: Hashable,
    render: Callable[[Sequence[CachedProfile]], _R],
    *,
    min_position: MinPosition = ANY_POSITION,
) -> _R:
    """Return ``render`` of the profiles of a page's users, or what it returned before for the same ones.

    ``request`` has all that the result depends on beside page and profiles. Raises as ``cached_profiles``.
    """
    copy, cache = found.copy, reader.profile_cache
    known = None if copy is None else copy.rendered.get(dialect)
    if known is not None and known.request != request:
        known = None
    if known is not None and _holds(reader, known, found.members, min_position):
        reply: _R = known.reply
        return reply
    version = cache.version  # a change while profiles are read makes the next request look them up again
    profiles = await cached_profiles(reader, found.members, position=found.position, min_position=min_position)
    if copy is None:
        return render(profiles)
    stamps = array("q", [profile.stamp for profile in profiles])
    reply = known.reply if known is not None and known.stamps == stamps else render(profiles)
    read_at = min([profile.read_at for profile in profiles], default=float("inf"))
    position, word = oldest_of(profiles)
    page = RenderedPage(request, reply, stamps, version, read_at, position, word)
    reader.copies.keep_rendered(copy, dialect, page)
    return reply


def _holds(reader: Reader, known: RenderedPage, members: Sequence[bytes], min_position: MinPosition) -> bool:
    """Return whether the profiles would be the same, without looking them up.

    Those that were dropped from the cache for room count as if they were there: a report names all that change.
    """
    cache = reader.profile_cache
    if known.read_at <= cache.oldest() or not cache.is_unchanged(known.version, members):
        return False
    known.version = cache.version
    if min_position is ANY_POSITION or not known.stamps:
        return True
    if min_position.reports or known.position < min_position.needed(DIRECTORY):
        return False
    return min_position.unjudged([(NO_USER, NO_USER, known.position, known.word, True)]) is None
