"""The addresses that answers carry: absolute, on the host that the client asked for."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote_plus

from api.forwarded import ProxySettings
from api.kraken.schemas import PageLinks

Parameters = dict[str, str | int]

_HOST: Final = re.compile(r"[0-9A-Za-z._\[\]:-]{1,255}")


def base_of(scope: Mapping[str, Any], sent: Mapping[bytes, bytes], proxies: ProxySettings) -> str:
    """Return the address of this dialect for a client with the headers ``sent``: ``http://host:8000/kraken``."""
    scheme, host = proxies.called(sent)
    scheme, host = scheme or scope.get("scheme", "http"), host or sent.get(b"host", b"").decode("latin-1")
    if _HOST.fullmatch(host) is None:
        name, port = (scope.get("server") or ("localhost", None))[:2]
        host = f"{name}:{port}" if port else "localhost"  # a Unix socket has no host name
    return f"{scheme}://{host}/kraken"


def link(address: str, parameters: Mapping[str, str | int]) -> str:
    """Return an address with parameters in alphabetical order, as v3 wrote them."""
    return f"{address}?{'&'.join([f'{name}={quote_plus(str(parameters[name]))}' for name in sorted(parameters)])}"


def page_links(
    address: str, shown: Mapping[str, str | int], here: Mapping[str, str | int], behind: Mapping[str, str | int] | None
) -> PageLinks:
    """Return a page's links. Both have the parameters ``shown``; ``here`` is this page's place, ``behind`` the next
    one's, None after the end."""
    return PageLinks(link(address, {**shown, **here}), None if behind is None else link(address, {**shown, **behind}))


def next_link_header(links: PageLinks) -> dict[str, str]:
    """Return the RFC 8288 header that says the same as ``_links.next``."""
    return {} if links.next is None else {"Link": f'<{links.next}>; rel="next"'}
