"""`follows pause` and `resume`: stopping the projection on purpose, with a name and a reason on it."""

import click

from cli.tools import print_json, run, who
from commands import pauses
from commands.postgres import Engine
from projections.store import Store


@click.command()
@click.option("--why", required=True, help="The reason, shown by `follows status`.")
@click.option("--who", "name", default=who, show_default="you", help="Who is to be asked.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def pause(why: str, name: str, as_json: bool) -> None:
    """Stop the projection within two seconds.

    Commands and reads go on; the views fall behind until `follows resume`. Who, why and since when is shown by
    `follows status`.
    """

    async def work(engine: Engine, _: Store) -> None:
        await pauses.pause(engine, name, why)

    run(work)
    if as_json:
        print_json({"paused": True, "who": name, "why": why})
    else:
        click.echo("the projection is paused")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def resume(as_json: bool) -> None:
    """Let the projection go on."""

    async def work(engine: Engine, _: Store) -> bool:
        return await pauses.resume(engine)

    was = run(work)
    if as_json:
        print_json({"paused": False, "was_paused": was})
    else:
        click.echo("the projection goes on" if was else "the projection was not paused")
