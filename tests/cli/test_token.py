"""`follows token` and the development key."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.auth.tokens import AuthSettings, TokenVerifier
from cli.dev.dev_key import DEV_AUDIENCE, DEV_ISSUER, ensure_dev_key, sign
from cli.main import main
from commands.errors import SettingsError

FollowsToken = Callable[..., tuple[object, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a key; the environment has no settings of Follows."""
    monkeypatch.chdir(tmp_path)
    for name in ("JWKS", "ISSUER", "AUDIENCE", "ENV", "DATA"):
        monkeypatch.delenv(f"FOLLOWS_{name}", raising=False)
    ensure_dev_key(tmp_path / "data of ours")
    return tmp_path / "data of ours"


@pytest.fixture
def follows_token(capsys: pytest.CaptureFixture[str]) -> FollowsToken:
    """Run `follows token` as a shell does; return (exit code, standard output, standard error)."""

    def call(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["token", *arguments])
        return ended.value.code, *capsys.readouterr()

    return call


async def test_printed_token_is_accepted_by_the_verifier(folder: Path, follows_token: FollowsToken) -> None:
    options = ("--scope", "user_read", "--scope", "x", "--role", "service", "--data", str(folder))
    code, out, err = follows_token("auth0|ann@example.com", *options)
    assert (code, err) == (0, "")
    verifier = TokenVerifier(AuthSettings(str(folder / "jwks.json"), DEV_ISSUER, DEV_AUDIENCE))
    await verifier.start()
    caller = await verifier.verify(out.removesuffix("\n"))
    assert (caller.id, caller.role) == ("auth0|ann@example.com", "service")
    assert caller.scopes == {"user_read", "x"}
    assert caller.expires_at - caller.issued_at == 7 * 24 * 3600


async def test_issuer_and_audience_are_those_of_the_environment(
    folder: Path, follows_token: FollowsToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOLLOWS_ISSUER", "us")
    monkeypatch.setenv("FOLLOWS_AUDIENCE", "follows")
    monkeypatch.setenv("FOLLOWS_DATA", str(folder))
    monkeypatch.setenv("FOLLOWS_JWKS", str(folder / ".." / folder.name / "jwks.json"))
    _, out, _ = follows_token("ann", "--ttl", "5")
    verifier = TokenVerifier(AuthSettings(str(folder / "jwks.json"), "us", "follows"))
    caller = await verifier.verify(out.strip())
    assert caller.expires_at - caller.issued_at == 5


MISTAKES = {
    "user id": (["a b"], "not a user id"),
    "long user id": (["a" * 129], "not a user id"),
    "user id that a route has taken": (["me"], "not a user id"),
    "role": (["ann", "--role", "king"], "not a role"),
    "ttl": (["ann", "--ttl", "0"], "--ttl"),
    "scope": (["ann", "--scope", "a b"], "not a scope"),
}


@pytest.mark.parametrize(("arguments", "says"), MISTAKES.values(), ids=MISTAKES.keys())
def test_bad_argument_is_refused_in_one_line(
    folder: Path, follows_token: FollowsToken, arguments: list[str], says: str
) -> None:
    code, out, err = follows_token(*arguments, "--data", str(folder))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert says in err


REFUSING = {
    "keys behind a URL": ("FOLLOWS_JWKS", "https://auth.example/jwks.json"),
    "keys in another file": ("FOLLOWS_JWKS", "/etc/jwks.json"),
    "production": ("FOLLOWS_ENV", "production"),
}


@pytest.mark.parametrize(("name", "value"), REFUSING.values(), ids=REFUSING.keys())
def test_token_is_refused_where_other_keys_are_configured(
    folder: Path, follows_token: FollowsToken, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    code, out, err = follows_token("ann", "--data", str(folder))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert name in err


def test_missing_key_names_the_command_that_makes_one(folder: Path, follows_token: FollowsToken) -> None:
    code, out, err = follows_token("ann", "--data", str(folder / "elsewhere"))
    assert (code, out) == (1, "")
    assert "follows up" in err


def test_key_is_made_once_and_readable_by_its_owner_only(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"dev_key.pem", "jwks.json"}
    (folder / "dev_key.pem").chmod(0o644)
    assert ensure_dev_key(folder) == folder / "jwks.json"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (folder / "dev_key.pem").stat().st_mode & 0o777 == 0o600
    entry = json.loads(before["jwks.json"])["keys"][0]
    assert set(entry) == {"kty", "use", "alg", "kid", "n", "e"}


def test_changed_key_set_is_written_again(folder: Path) -> None:
    good = (folder / "jwks.json").read_bytes()
    (folder / "jwks.json").write_text("{}")
    assert ensure_dev_key(folder).read_bytes() == good


def test_key_made_by_several_threads_at_once_is_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: ensure_dev_key(tmp_path).read_bytes(), range(4)))
    assert len(set(found)) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"dev_key.pem", "jwks.json"}


def test_unreadable_key_is_an_error_and_not_replaced(folder: Path) -> None:
    (folder / "dev_key.pem").write_text("spoilt")
    with pytest.raises(SettingsError, match=r"dev_key\.pem"):
        ensure_dev_key(folder)
    with pytest.raises(SettingsError, match=r"dev_key\.pem"):
        sign(folder, "ann")
