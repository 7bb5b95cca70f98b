"""`follows token`: a token for trying out the service, signed with the development key."""

from pathlib import Path
from typing import get_args

import click

from api.auth.tokens import Role
from cli.dev.dev_key import DEV_TOKEN_TTL_S, JWKS_FILE, expected_claims, sign
from commands.errors import Invalid, SettingsError
from commands.settings import setting
from commands.users import ID_IN_WORDS, ID_MAX, is_user_id

ROLES = get_args(Role)
TTL_MAX_S = 10 * 365 * 24 * 3600  # ten years, for a machine whose token is never renewed


@click.command()
@click.argument("user")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="Grant this scope; may be repeated.")
@click.option(
    "--role", default="user", show_default=True, metavar="ROLE", help=f"Grant one of the roles {', '.join(ROLES)}."
)
@click.option(
    "--ttl",
    "ttl_s",
    type=int,
    default=DEV_TOKEN_TTL_S,
    show_default=True,
    metavar="S",
    help="Let the token expire after S seconds.",
)
@click.option(
    "--data",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=".follows",
    envvar="FOLLOWS_DATA",
    show_default=True,
    metavar="DIR",
    help="Use the key in the data folder DIR.",
)
def token(user: str, scopes: tuple[str, ...], role: str, ttl_s: int, folder: Path) -> None:
    """Print a token signed with the development key.

    USER is a user's id. `follows up` made the key in its data folder.
    """
    _check(user, scopes, role, ttl_s)
    _check_key_is_in_use(folder)
    click.echo(sign(folder, user, scopes=scopes, role=role, ttl_s=ttl_s, claims=expected_claims()))


def _check(user: str, scopes: tuple[str, ...], role: str, ttl_s: int) -> None:
    """Raise Invalid for what the service would refuse."""
    if not is_user_id(user):
        raise Invalid(f"{user[:ID_MAX]!r} is not a user id: {ID_IN_WORDS}")
    if role not in ROLES:
        raise Invalid(f"{role[:80]!r} is not a role: {', '.join(ROLES)}")
    if not 0 < ttl_s <= TTL_MAX_S:
        raise Invalid(f"--ttl must be 1 to {TTL_MAX_S} seconds")
    for scope in scopes:
        if not scope or scope.split() != [scope]:
            raise Invalid(f"{scope[:80]!r} is not a scope: one word, --scope once for each")


def _check_key_is_in_use(folder: Path) -> None:
    """Raise SettingsError where the service uses other keys, or accepts no development key."""
    if setting("FOLLOWS_ENV").strip().lower() not in ("", "development"):
        raise SettingsError("FOLLOWS_ENV is not development: development tokens are not valid there")
    configured, ours = setting("FOLLOWS_JWKS"), folder / JWKS_FILE
    if configured and Path(configured).expanduser().resolve() != ours.resolve():
        raise SettingsError(f"FOLLOWS_JWKS is not {ours}: the service does not accept tokens of the development key")
