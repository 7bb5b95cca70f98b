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

    async def work(engine: Engine) -> str:
        store = await store_or_all()
        await log_pause.pause_projection(engine, name, why, store)
        return store

    store = run_on_log(work)
    if as_json:
        print_json({"paused": True, "who": name, "why": why, "store": store})
    else:
        click.echo(f"the projection is paused for {_scope(store)}")


@click.command("resume")
@json_option
def resume_command(as_json: bool) -> None:
    """Start the projection again after `follows pause`, for the same Redis as there."""

    async def work(engine: Engine) -> tuple[bool, str]:
        store = await store_or_all()
        return await log_pause.resume_projection(engine, store), store

    was_paused, store = run_on_log(work)
    if as_json:
        print_json({"paused": False, "was_paused": was_paused, "store": store})
    else:
        click.echo(f"the projection {'is running again' if was_paused else 'was not paused'} for {_scope(store)}")


def _scope(store: str) -> str:
    return f"the Redis of REDIS_URL, {store}" if store else "every Redis that the log feeds"
