"""`follows adopt`: let this database feed this Redis, after a restore, a move, or a dispute."""

import click

from cli.arguments import json_option, print_json
from cli.connect import run
from commands.db.postgres import Engine
from projections.client.client import RedisClient
from projections.feeding.adopt import Adoption, adopt, look


@click.command("adopt")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def adopt_command(yes: bool, as_json: bool) -> None:
    """Let this database feed this Redis.

    A Redis knows which database its views are made from. Workers of another one wait, and so do workers that find views
    of which their log does not have the history. This command shows what there is and what it will do, asks, and makes
    DATABASE_URL the one that feeds REDIS_URL. Workers that wait go on within a second; those of the database before
    stop.

    Views that the log has the history of are continued. Others are kept for `follows generations diff`, and reads are
    503 until a worker has built the next generation.
    """
    if as_json and not yes:
        raise click.UsageError("--json needs --yes")

    async def work(engine: Engine, redis: RedisClient) -> tuple[Adoption, bool]:
        adoption, raw = await look(engine, redis)
        if not as_json:
            click.echo("\n".join(adoption_in_words(adoption)))
        if adoption.reason is None:
            return adoption, False
        if not (yes or click.confirm("Adopt it?")):
            click.echo("nothing was changed")
            raise SystemExit(1)
        await adopt(engine, redis, adoption, raw)
        return adoption, True

    adoption, adopted = run(work)
    if as_json:
        print_json({"adopted": adopted, "found": adoption})
    elif adopted:
        click.echo("this Redis is fed by this database now")


def adoption_in_words(adoption: Adoption) -> list[str]:
    """Return what was found and what adopting does, in words."""
    before = "nothing yet" if adoption.before is None else adoption.before.in_words()
    lines = [f"this Redis is fed by  {before}", f"this process has      {adoption.database.in_words()}"]
    if adoption.generation is None:
        lines.append("the live view         there is none")
    else:
        lines.append(f"the live view         generation {adoption.generation}, up to position {adoption.position:,}")
    if adoption.reason is None:
        return [*lines, "there is nothing to adopt: this database feeds this Redis"]
    lines.append(f"why nothing is fed    {adoption.reason.partition(';')[0]}")
    if adoption.continues:
        what = f"generation {adoption.generation} is continued"
    else:
        kept = "" if adoption.generation is None else f"generation {adoption.generation} is kept; "
        what = f"{kept}reads are 503 until a worker has built the views from {adoption.events:,} events"
    return [*lines, f"adopting it           {what}"]
