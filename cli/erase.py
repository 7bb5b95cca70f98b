"""`follows erase --again`: erasing users again, in a database restored to a time before their erasure."""

from typing import BinaryIO

import click

from cli.arguments import json_option, print_json
from cli.connect import run_on_log
from commands.db.postgres import Engine
from commands.directory import Directory
from commands.erasure_file import not_erased, read_accounts
from commands.errors import UserNotFound


@click.command("erase")
@click.option(
    "--again", "files", type=click.File("rb"), multiple=True, required=True, metavar="FILE", help="Read this file."
)
@json_option
def erase_command(files: tuple[BinaryIO, ...], as_json: bool) -> None:
    """Erase users again, after a restore.

    FILE is what web processes wrote to FOLLOWS_ERASURE_FILE; give --again once for each file. Its accounts are erased
    where the restored database has them unerased. An id that was registered again since is another account and stays.
    Running it twice changes nothing. The exit code is 1 when a line cannot be read.
    """
    lines = [account for file in files for account in read_accounts(file)]
    accounts = {account for account in lines if account is not None}
    unreadable = lines.count(None)

    async def work(engine: Engine) -> int:
        directory = Directory(engine)
        return sum([await _erase(directory, id_) for id_ in await not_erased(engine, accounts)])

    erased = run_on_log(work)
    if as_json:
        print_json({"noted": len(accounts), "erased": erased, "unreadable": unreadable})
    else:
        click.echo(f"{len(accounts):,} accounts noted, {erased:,} of them erased again")
        if unreadable:
            click.echo(f"{unreadable:,} lines cannot be read: each is an erasure that was refused, or damage", err=True)
    if unreadable:
        raise SystemExit(1)


async def _erase(directory: Directory, id_: str) -> bool:
    """Erase the user; return False when another process has done it meanwhile."""
    try:
        await directory.erase(id_)
    except UserNotFound:
        return False
    return True
