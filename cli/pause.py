"""`follows pause` and `resume`: stopping the projection for a recorded reason, and starting it again."""

import click

from cli.arguments import json_option, print_json, who_option
from cli.connect import run_on_log, store_or_all
from commands.coordination import pause as log_pause
from commands.db.postgres import Engine


@click.command("pause")
@click.option("--why", required=True, metavar="REASON", help="Give the reason; `follows status` shows it.")
@who_option
@json_option
def pause_command(why: str, name: str, as_json: bool) -> None:
    """Stop the projection within two seconds.

    This is for the Redis that REDIS_URL names; if it is not set or does not answer, for all that the log feeds.
    Commands and reads go on, but the views fall behind the log until `follows resume`. `follows status` shows the
    name, the reason and the time.
    """

    async def work(engine: Engine) -> None:
        await log_pause.pause_projection(engine, name, why, await store_or_all())

    run_on_log(work)
    if as_json:
        print_json({"paused": True, "who": name, "why": why})
    else:
        click.echo("the projection is paused")


@click.command("resume")
@json_option
def resume_command(as_json: bool) -> None:
    """Start the projection again after `follows pause`."""

    async def work(engine: Engine) -> bool:
        return await log_pause.resume_projection(engine, await store_or_all())

    was_paused = run_on_log(work)
    if as_json:
        print_json({"paused": False, "was_paused": was_paused})
    else:
        click.echo("the projection is running again" if was_paused else "the projection was not paused")
