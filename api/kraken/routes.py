"""The router of /kraken."""

from litestar import Router

from api.kraken import follows, lists, me, users
from api.kraken.callers import require_servable
from api.kraken.errors import handle_kraken_error

kraken_router = Router(
    "/kraken",
    route_handlers=[
        me.root,
        me.show_own_user,
        users.show_public_user,
        users.show_channel,
        users.show_stream,
        lists.get_channel_followers,
        lists.list_following,
        lists.list_live,
        follows.show_follow,
        follows.follow_channel,
        follows.unfollow_channel,
    ],
    guards=[require_servable],
    exception_handlers={Exception: handle_kraken_error},
    tags=["kraken"],
)
