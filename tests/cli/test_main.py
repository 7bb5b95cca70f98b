"""The `follows` command: its list of commands, its exit codes, and errors in one line."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import NoReturn

import click
import pytest

from cli import main as main_module
from cli.dev.processes import ROOT
from cli.main import COMMANDS, follows, main
from commands.errors import SettingsError


@pytest.mark.parametrize("name", COMMANDS)
def test_list_of_commands_repeats_their_help(name: str) -> None:
    command = follows.get_command(click.Context(follows), name)
    assert command is not None
    assert command.get_short_help_str(limit=200) == COMMANDS[name][1]


def test_help_imports_no_command() -> None:
    script = """
import sys
from cli.main import main
try:
    main(["--help"])
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
def test_error_is_one_line_and_an_exit_code(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, _raising(error)) == code
    assert capsys.readouterr().err.lstrip("\n") == said


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["nothing"], 2), (["up", "--port", "x"], 2)])
def test_wrong_usage_is_exit_code_2(arguments: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code


@pytest.mark.parametrize("arguments", [["--help"], ["rebuild", "--help"], ["--version"]])
def test_closed_output_ends_the_command_in_silence(arguments: list[str]) -> None:
    """As in `follows --help | head -1`: no error, and the exit code of a shell."""
    assert _unread("-m", "cli", *arguments) == (141, "")


def test_closed_output_is_noticed_when_the_buffer_is_flushed() -> None:
    script = """
import click
from cli.main import LazyCommands, main
LazyCommands.get_command = lambda *_: click.Command("try", callback=lambda: print("said"))
main(["try"])
"""
    assert _unread("-c", script) == (141, "")


def _unread(*arguments: str) -> tuple[int, str]:
    """Return exit code and standard error of a Python process whose standard output is closed."""
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
    """Return the exit code of a command `follows try` that calls ``callback``."""
    monkeypatch.setattr(main_module, "adopt_running_servers", lambda: None)
    command = click.Command("try", callback=callback)
    monkeypatch.setattr(type(follows), "get_command", lambda self, context, name: command)
    with pytest.raises(SystemExit) as ended:
        main(["try"])
    assert isinstance(ended.value.code, int)
    return ended.value.code
