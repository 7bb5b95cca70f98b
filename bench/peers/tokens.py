"""The product's RS256 tokens, verified for the peers; each token once until it expires."""

import json
import os
import time
from pathlib import Path

import jwt

CACHE_MAX = 50_000
_key = None
_known: dict[str, tuple[float, str]] = {}


def caller_of(authorization: str | None) -> str | None:
    """Return the id of the user that the header's token identifies, or None."""
    global _key
    token = (authorization or "").removeprefix("Bearer ")
    known = _known.get(token)
    if known is not None and known[0] > time.time():
        return known[1]
    if _key is None:
        _key = jwt.PyJWK(json.loads(Path(os.environ["FOLLOWS_JWKS"]).read_text())["keys"][0])
    try:
        checked, issuer = {"verify_aud": False}, os.environ["FOLLOWS_ISSUER"]
        claims = jwt.decode(token, _key.key, algorithms=["RS256"], issuer=issuer, options=checked)
    except jwt.InvalidTokenError:
        return None
    if len(_known) >= CACHE_MAX:
        _known.clear()
    _known[token] = (claims["exp"], claims["sub"])
    return str(claims["sub"])
