"""The steps of every request of both dialects: authenticate, count, call, and call again for a fresher answer.

1. ``begin`` authenticates the caller, and asks Redis for the caller's count.
2. ``respond`` calls a hot read at once, if the numbers of its users are cached. Its commands go out in the same loop
   turn, so that all share one round trip.
3. It awaits the count.
4. It calls again when the first call has not answered: a look-up or a wait comes after the count. Only now it calls
   commands.

Other requests than hot calls stop after the third step and go on to the router.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from api.context import CONTEXT_KEY, POSITION_MAX, Context
from api.one_reading import TwoReadings, two_readings
from api.own_writes import NotCached, OwnWrites
from api.rate_limit import Dialect
from api.reply import Reply
from api.request_id import begin_request
from api.services import Services
from commands.errors import FollowsError, Invalid, RateLimited

# A hot call with its arguments. It raises ``Context.refusal`` where the dialect says so.
HotCall = Callable[[], Awaitable[Reply]]


async def begin(
    services: Services,
    scope: dict[str, Any],
    sent: Mapping[bytes, bytes],
    token: str | bytes | None,
    problem: FollowsError | None = None,
    *,
    reads: bool,
    dialect: Dialect = "v1",
) -> Context:
    """Authenticate the caller, put the request's context into the scope, and start what ``respond`` awaits.

    Raises nothing: see ``Context.refusal``. ``problem`` is what was wrong with the way the token was sent, if anything.
    A token in bytes comes from a header. What the answer must show matters to ``reads`` only. ``dialect`` decides
    which limit a user has.
    """
    tail, problem = services.tail, two_readings(scope, sent) or problem
    context = scope[CONTEXT_KEY] = Context(begin_request(sent), sent, refusal=problem)
    came = tail.moment()
    if token is not None and problem is None:
        caller = services.verifier.cached(token if isinstance(token, bytes) else token.encode())
        try:
            context.caller = caller or await services.verifier.verify(_text(token))
        except FollowsError as error:
            context.refusal = error
    caller = context.caller
    try:
        asked = _asked_position(sent)
    except Invalid as error:
        context.refusal, asked = context.refusal or error, 0
    if not reads:
        context.known_before = tail.highest
    if reads and (caller is not None or asked):
        context.min_position = OwnWrites(tail, came, None if caller is None else caller.id, asked)
    address = services.proxies.client_address(scope) if caller is None else None
    context.rate_key = services.limit.key_and_limit(caller, address, dialect)
    context.pending_count = services.limit.start(*context.rate_key)
    return context


async def respond(
    services: Services,
    context: Context,
    call: HotCall | None,
    render_error: Callable[[Exception], Reply],
    *,
    reads: bool,
) -> Reply | None:
    """Return the answer of a hot call, also when it fails; None without a call: the request is the router's."""
    early, refusal = None, context.refusal
    try:
        if reads and call is not None:
            try:
                early = await call()
            # An error may cost another look-up, which comes after the count.
            except (NotCached, FollowsError):
                early = None
        await complete(services, context)
        if call is None:
            if isinstance(context.refusal, TwoReadings):  # also on a path without a route
                raise context.refusal
            return None
        # The call itself raises the refusal that it may have found in the context.
        if early is not None and context.refusal is refusal:
            return early
        return await call()
    except Exception as error:
        return render_error(error)


async def complete(services: Services, context: Context) -> None:
    """Take the count. From now on the call may look users up, and wait for what its caller must see."""
    try:
        await _take_count(services, context)
    except FollowsError as error:
        context.refusal = context.refusal or error
    finally:
        context.completed = True
        if isinstance(context.min_position, OwnWrites):
            context.min_position.completed = True


async def _take_count(services: Services, context: Context) -> None:
    count, context.pending_count = context.pending_count, None
    if count is None:
        return
    result = context.rate_limit = await services.limit.finish(count)
    if result.retry_after_s is not None:
        context.refusal = RateLimited(result.retry_after_s or 1, result.limit, result.reset_at_epoch_s)


def _asked_position(sent: Mapping[bytes, bytes]) -> int:
    """Return the position in the header Follow-Position, 0 without it. Raises Invalid."""
    asked = sent.get(b"follow-position")
    if asked is None:
        return 0
    if not asked.isdigit() or len(asked) > 19 or int(asked) > POSITION_MAX:
        reason = "must be a position that a command gave"
        raise Invalid(f"Follow-Position {reason}", {"Follow-Position": reason})
    return int(asked)


def _text(token: str | bytes) -> str:
    return token if isinstance(token, str) else token.decode("latin-1")
