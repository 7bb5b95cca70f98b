"""The text that `follows up` prints when it is ready: the address, a token, and lines to paste."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from commands.settings import setting

HEADER_FILE = "authorization"
RULE = "-" * 100
# The token's user without a demo graph; its first request registers it.
NEWCOMER = "newcomer"


def welcome(folder: Path, address: str, demo: bool, metrics: Mapping[str, str]) -> str:
    """Return the text; ``metrics`` has the address of each process' metrics."""
    lines = [RULE, f"Follows is ready at {address}"]
    if uses_development_key(folder):
        lines += _demo_lines(folder, address) if demo else _token_lines(folder, NEWCOMER)
    else:
        lines += ["Tokens must be signed with the keys of FOLLOWS_JWKS."]
    lines.append(f"Metrics: {', '.join(f'{name} http://{at}/metrics' for name, at in metrics.items())}")
    return "\n".join([*lines, "Ctrl-C stops everything; the data is kept.", RULE])


def uses_development_key(folder: Path) -> bool:
    """Return whether the service checks tokens with the data folder's own key, since no other is configured."""
    from cli.dev.dev_key import JWKS_FILE

    configured = setting("FOLLOWS_JWKS")
    return not configured or Path(configured).expanduser().absolute() == folder / JWKS_FILE


def _demo_lines(folder: Path, address: str) -> list[str]:
    """Return lines for curl, which reads the token from a file so that they are short enough to paste."""
    from cli.dev.demo import DEMO_CHANNEL, DEMO_STRANGER, DEMO_USER

    curl = f"curl -sS -H {shlex.quote(f'@{folder / HEADER_FILE}')}"
    return [
        *_token_lines(folder, DEMO_USER),
        f"Does {DEMO_USER} follow {DEMO_CHANNEL}? List its followers, and follow {DEMO_STRANGER}:",
        "",
        f"{curl} {address}/v1/users/{DEMO_CHANNEL}/follow-status",
        f"{curl} '{address}/v1/users/{DEMO_CHANNEL}/followers?per_page=5'",
        f"{curl} -X POST {address}/v1/users/{DEMO_STRANGER}/follow",
        "",
    ]


def _token_lines(folder: Path, user: str) -> list[str]:
    from cli.dev.dev_key import expected_claims, sign

    token = sign(folder, user, scopes=["user_read", "user_follows_edit"], claims=expected_claims())
    header = folder / HEADER_FILE
    header.touch(mode=0o600)
    header.write_text(f"Authorization: Bearer {token}\n")
    return ["", f"A token of the user {user}, valid for a week (as a header in {header}):", "", token, ""]
