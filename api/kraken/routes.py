"""The router of /kraken."""

from litestar import Router

from api.kraken import follows, lists, own, users
from api.kraken.callers import refuse
from api.kraken.errors import handle

router = Router(
    "/kraken",
    route_handlers=[
        own.root,
        own.show_own_user,
        users.show_user,
        users.show_channel,
        users.show_stream,
        lists.list_followers,
        lists.list_following,
        lists.list_live,
        follows.show_follow,
        follows.put_follow,
        follows.end_follow,
    ],
    guards=[refuse],
    exception_handlers={Exception: handle},
    tags=["kraken"],
)
