"""The `follows` command: imports a sub-command when it is called, and prints every error in one line."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

import click

from cli.dev.server_note import adopt_running_servers
from commands.errors import FollowsError
from commands.settings import setting

# Name -> (module:attribute, short help). The help is repeated here so that `follows --help` imports no command;
# tests/cli/test_main.py compares it with the commands' own.
COMMANDS = {
    "up": ("cli.dev.up:up", "Run the whole product on this machine until Ctrl-C."),
    "web": ("cli.serve:web", "Serve both dialects until SIGTERM; a process that dies is replaced."),
    "worker": ("cli.serve:worker", "Project the log into the views until SIGTERM."),
    "rebuilder": (
        "cli.serve:rebuilder",
        "Do the rebuilds that `follows rebuild --job` asks for, until SIGTERM.",
    ),
    "migrate": ("cli.migrate:migrate", "Bring the database's schema up to date."),
    "token": ("cli.token:token", "Print a token signed with the development key."),
    "import": ("cli.imports:imports", "Import users or follows from a file."),
    "check": (
        "cli.check:check_command",
        "Check every setting and server that the processes need.",
    ),
    "status": (
        "cli.status:status_command",
        "Show what is wrong and what to do about it, the log's end, how far the views are behind it, and the workers.",
    ),
    "rebuild": ("cli.rebuild:rebuild_command", "Build new views and switch readers to them."),
    "undo-switch": ("cli.rebuild:undo_switch", "Switch readers back to the previous generation."),
    "generations": ("cli.generations:generations", "Show the generations of views."),
    "adopt": ("cli.adopt:adopt_command", "Let this database feed this Redis."),
    "pause": ("cli.pause:pause_command", "Stop the projection within two seconds."),
    "resume": (
        "cli.pause:resume_command",
        "Start the projection again after `follows pause`, for the same Redis as there.",
    ),
    "parked": (
        "cli.parked:parked_command",
        "Show events that could not be projected, and later events of their pairs.",
    ),
    "verify": ("cli.verify:verify_command", "Compare the views with the log."),
    "erase": ("cli.erase:erase_command", "Erase users again, after a restore."),
    "as-of": ("cli.as_of:as_of", "Show a user's following and followers as of a moment."),
    "history": ("cli.history:history", "Show a user's events."),
    "export": ("cli.export:export", "Write follows or users to a file."),
}


# A shell's exit code for a process that was ended by SIGPIPE: 128 and the signal's number.
OUTPUT_CLOSED = 141


class OutputClosedError(Exception):
    """The reader of standard output has closed it, as `| head` does; click itself would report a failure."""


class LazyCommands(click.Group):
    """A group that imports a command when it is called."""

    def make_context(self, *arguments: Any, **named: Any) -> click.Context:
        with _noticing_closed_output():
            return super().make_context(*arguments, **named)

    def invoke(self, ctx: click.Context) -> Any:
        with _noticing_closed_output():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        try:
            command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if cmd_name != "up":
                raise
            reason = f"`follows up` needs the package {error.name}, which comes with the extra: follows[embedded]"
            raise click.ClickException(reason) from None
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])


@contextmanager
def _noticing_closed_output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise OutputClosedError from error


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="follows", message="%(prog)s %(version)s")
@click.pass_context
def follows(context: click.Context) -> None:
    """Follows, a follow service: one log, views in Redis, and two dialects of HTTP.

    `follows up` runs everything, and the other commands find its servers by themselves. DATABASE_URL, REDIS_URL and
    QUEUE_URL name other servers.
    """
    if context.invoked_subcommand not in ("up", "web", "worker", "rebuilder"):
        adopt_running_servers()


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted, 141 output closed."""
    try:
        sys.exit(follows.main(arguments, prog_name="follows", standalone_mode=False) or 0)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.ClickException as refused:
        refused.show()
        sys.exit(refused.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except FollowsError as refused:
        exit_with_error(refused.message)
    except OutputClosedError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes its buffer at exit, which must not fail
        sys.exit(OUTPUT_CLOSED)
    except OSError as error:
        exit_with_error(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except Exception as error:
        _exit_with_unexpected(error)


def _exit_with_unexpected(error: Exception) -> NoReturn:
    """Exit with one line about an error that no command has words for: PostgreSQL refused a statement, or a bug."""
    if setting("FOLLOWS_LOG_LEVEL").upper() == "DEBUG":
        traceback.print_exception(error)
    cause = getattr(error, "orig", None) or error  # SQLAlchemy's own text has the whole statement
    words = next(iter(str(cause).splitlines()), "")
    exit_with_error(f"{type(cause).__name__}: {words} (FOLLOWS_LOG_LEVEL=DEBUG shows where)")


def exit_with_error(message: str) -> NoReturn:
    """Print the message as one line on standard error and exit with 1."""
    click.echo(f"follows: {' '.join(message.split())}", err=True)
    sys.exit(1)
