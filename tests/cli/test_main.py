"""The `follows` command itself: its list of commands, its exit codes, and errors in one line."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import NoReturn

import click
import pytest

from cli import main as main_module
from cli.main import COMMANDS, follows, main
from cli.procfile import ROOT
from commands.errors import SettingsError


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_commands_say(name: str) -> None:
    command = follows.get_command(click.Context(follows), name)
    assert command is not None
    assert command.get_short_help_str(limit=200) == COMMANDS[name][1]


def test_help_imports_no_command() -> None:
    script = """
import sys
from cli.main import main
sys.argv = ["follows", "--help"]
try:
    main()
finally:
    print([name for name in ("sqlalchemy", "litestar", "redis", "arq", "httpx") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SettingsError("two\nlines"), 1, "follows: two lines\n"),
        (click.ClickException("refused"), 1, "Error: refused\n"),
        (PermissionError(13, "Permission denied", "/a b"), 1, "follows: Permission denied: /a b\n"),
        (ConnectionRefusedError(111, "Connection refused"), 1, "follows: Connection refused\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (click.exceptions.Exit(3), 3, ""),
    ],
)
def test_every_end_is_one_line_and_a_code(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, _raising(error)) == code
    assert capsys.readouterr().err.lstrip("\n") == said


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["nothing"], 2), (["up", "--port", "x"], 2)])
def test_usage(arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["follows", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code


@pytest.mark.parametrize("arguments", [["--help"], ["rebuild", "--help"], ["--version"]])
def test_nobody_reads_what_is_said(arguments: list[str]) -> None:
    """As in `follows --help | head -1`: no word of it, and the exit code that a shell would give."""
    assert _unread("-m", "cli", *arguments) == (141, "")


def test_nobody_reads_what_was_not_flushed() -> None:
    """What a command has only put into Python's buffer is part of it."""
    script = """
import sys, click
from cli.main import LazyCommands, main
LazyCommands.get_command = lambda *_: click.Command("try", callback=lambda: print("said"))
sys.argv = ["follows", "try"]
main()
"""
    assert _unread("-c", script) == (141, "")


def _unread(*arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a Python whose standard output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    return done.returncode, done.stderr


def _raising(error: BaseException) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise error

    return fail


def _run(monkeypatch: pytest.MonkeyPatch, callback: Callable[[], None]) -> int:
    """The exit code of a `follows try` that does what ``callback`` does."""
    monkeypatch.setattr(sys, "argv", ["follows", "try"])
    monkeypatch.setattr(main_module, "adopt_running_servers", lambda: None)
    command = click.Command("try", callback=callback)
    monkeypatch.setattr(type(follows), "get_command", lambda self, context, name: command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code
