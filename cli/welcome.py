"""What `follows up` prints when it is ready: the address, a token, and lines to paste."""

import os
import shlex
from pathlib import Path

AUTHORIZATION = "authorization"
RULE = "-" * 100


def welcome(folder: Path, address: str, demo: bool) -> str:
    """The lines as one text. curl reads the token from a file, which keeps its lines short and pasteable."""
    lines = [RULE, f"Follows is ready:  {address}   (documentation: {address}/docs)"]
    if believes_development_key(folder):
        lines += _lines_to_paste(folder, address, demo)
    else:
        lines += ["Tokens come from whoever holds the keys of FOLLOWS_JWKS."]
    return "\n".join([*lines, "Ctrl-C stops everything; the data stays.", RULE])


def _lines_to_paste(folder: Path, address: str, demo: bool) -> list[str]:
    from cli.demo import DEMO_CHANNEL, DEMO_NEWCOMER, DEMO_USER
    from cli.dev_key import sign

    scopes = ["user_read", "user_follows_edit"]
    audience = os.environ.get("FOLLOWS_AUDIENCE")
    token = sign(folder, DEMO_USER, scopes=scopes, claims={"aud": audience} if audience else {})
    header = folder / AUTHORIZATION
    header.touch(mode=0o600)
    header.write_text(f"Authorization: Bearer {token}\n")
    curl = f"curl -sS -H {shlex.quote(f'@{header}')}"
    found = ["", f"A token of {DEMO_USER} (also in {header}):", "", token, ""]
    if demo:
        found += [
            "Does this user follow somebody, who follows that somebody, and follow somebody else:",
            "",
            f"{curl} {address}/v1/users/{DEMO_CHANNEL}/follow-status",
            f"{curl} '{address}/v1/users/{DEMO_CHANNEL}/followers?per_page=5'",
            f"{curl} -X POST {address}/v1/users/{DEMO_NEWCOMER}/follow",
            "",
        ]
    return found


def believes_development_key(folder: Path) -> bool:
    """Whether the service checks tokens with the data folder's own key: nothing else is configured."""
    from cli.dev_key import JWKS_FILE

    believed = os.environ.get("FOLLOWS_JWKS")
    return not believed or Path(believed).expanduser().absolute() == folder / JWKS_FILE
