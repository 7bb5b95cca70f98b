"""A note on standard error for commands whose output passes over events that this version cannot read."""

import click

from commands.coordination.parked import read_parked
from commands.db.postgres import Engine


async def note_unreadable(engine: Engine) -> None:
    """Say how many parked events could not be read, if there are any."""
    count = len({row.position for row in await read_parked(engine) if row.unreadable})
    if count:
        click.echo(
            f"note: {count:,} events that could not be read are passed over: `follows parked` shows them", err=True
        )
