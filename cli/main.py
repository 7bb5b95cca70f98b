"""The `follows` command: finds its sub-commands when they are asked for, and ends every error in one line."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from cli.running import adopt_running_servers
from commands.errors import FollowsError

# Name -> (module:attribute, what the list of commands says). Written down here, so that `follows --help` has
# nothing to import and answers at once; tests/cli/test_main.py compares the words with the commands' own.
COMMANDS = {
    "up": ("cli.up:up", "Run the whole product on this machine until Ctrl-C."),
    "migrate": ("cli.migrate:migrate", "Bring the database's schema up to date."),
    "token": ("cli.token:token", "Print a token signed with the development key."),
    "import": ("cli.imports:imports", "Read users or follows from a file."),
    "status": ("cli.status:status", "Show the log's head and how far the views are."),
    "lag": ("cli.lag:lag", "Show how far the lanes are behind the log, and who projects them."),
    "rebuild": ("cli.rebuild:rebuild", "Build the views anew beside the live ones."),
    "undo-switch": ("cli.rebuild:undo_switch", "Make readers see the generation before this one again."),
    "generations": ("cli.generations:generations", "Show the generations of views."),
    "pause": ("cli.pausing:pause", "Stop the projection within two seconds."),
    "resume": ("cli.pausing:resume", "Let the projection go on."),
    "parked": ("cli.parked:parked", "Show the events that could not be projected, and those behind them."),
    "verify": ("cli.verify:verify_", "Compare the views with the log."),
    "as-of": ("cli.as_of:as_of", "Show whom a user followed at some moment, and who followed him."),
    "history": ("cli.history:history", "Show what has happened to a user."),
    "export": ("cli.exporting:export", "Write follows or users to a file."),
}


# What a shell says of whoever writes into a pipe that nobody reads any more: 128 and the number of SIGPIPE.
UNREAD = 141


class NobodyReadsError(Exception):
    """Standard output was closed by who read it, as `| head` does. click itself would call that a failure."""


class LazyCommands(click.Group):
    """A group whose commands are imported when they are called."""

    def make_context(self, *arguments: Any, **named: Any) -> click.Context:
        with _until_nobody_reads():
            return super().make_context(*arguments, **named)

    def invoke(self, ctx: click.Context) -> Any:
        with _until_nobody_reads():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])


@contextmanager
def _until_nobody_reads() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise NobodyReadsError from error


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="follows", message="%(prog)s %(version)s")
@click.pass_context
def follows(context: click.Context) -> None:
    """Follows: who follows whom, kept in one log and served over two dialects of HTTP.

    `follows up` runs everything; the other commands then find its servers by themselves. DATABASE_URL,
    REDIS_URL and QUEUE_URL name other servers.
    """
    if context.invoked_subcommand != "up":
        adopt_running_servers()


def main() -> None:
    """Runs a command; exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted, 141 its reader left."""
    try:
        sys.exit(follows.main(prog_name="follows", standalone_mode=False) or 0)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.ClickException as refused:
        refused.show()
        sys.exit(refused.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except FollowsError as refused:
        fail(refused.message)
    except NobodyReadsError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python still wants to be rid of what it has not written
        sys.exit(UNREAD)
    except OSError as error:
        fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")


def fail(message: str) -> None:
    """One line on standard error, whatever the message held, and exit code 1."""
    click.echo(f"follows: {' '.join(message.split())}", err=True)
    sys.exit(1)
