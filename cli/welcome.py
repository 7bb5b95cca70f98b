"""What `follows up` prints when it is ready: the address, a token, and lines to paste."""

import os
import shlex
from pathlib import Path

HEADER = "authorization"
RULE = "-" * 100
# Whom the token speaks for where no demo graph is: a name that the first request registers.
NEWCOMER = "newcomer"


def welcome(folder: Path, address: str, demo: bool) -> str:
    """The lines as one text."""
    lines = [RULE, f"Follows is ready at {address}"]
    if believes_development_key(folder):
        lines += _demo_lines(folder, address) if demo else _token_lines(folder, NEWCOMER)
    else:
        lines += ["Tokens come from whoever holds the keys of FOLLOWS_JWKS."]
    return "\n".join([*lines, "Ctrl-C stops everything; the data stays.", RULE])


def believes_development_key(folder: Path) -> bool:
    """Whether the service checks tokens with the data folder's own key: nothing else is configured."""
    from cli.dev_key import JWKS_FILE

    believed = os.environ.get("FOLLOWS_JWKS")
    return not believed or Path(believed).expanduser().absolute() == folder / JWKS_FILE


def _demo_lines(folder: Path, address: str) -> list[str]:
    """Reading the token from a file keeps the lines short enough to paste."""
    from cli.demo import DEMO_CHANNEL, DEMO_STRANGER, DEMO_USER

    curl = f"curl -sS -H {shlex.quote(f'@{folder / HEADER}')}"
    return [
        *_token_lines(folder, DEMO_USER),
        f"Does {DEMO_USER} follow {DEMO_CHANNEL}, who does so, and follow {DEMO_STRANGER} too:",
        "",
        f"{curl} {address}/v1/users/{DEMO_CHANNEL}/follow-status",
        f"{curl} '{address}/v1/users/{DEMO_CHANNEL}/followers?per_page=5'",
        f"{curl} -X POST {address}/v1/users/{DEMO_STRANGER}/follow",
        "",
    ]


def _token_lines(folder: Path, user: str) -> list[str]:
    from cli.dev_key import expected_claims, sign

    token = sign(folder, user, scopes=["user_read", "user_follows_edit"], claims=expected_claims())
    header = folder / HEADER
    header.touch(mode=0o600)
    header.write_text(f"Authorization: Bearer {token}\n")
    return ["", f"A token of the user {user}, good for a week (as a header in {header}):", "", token, ""]
