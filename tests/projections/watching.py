"""Waiting until the view that readers see is level with the log."""

from commands import log
from commands.postgres import Engine
from projections import generations
from projections.keys import View
from projections.store import Store
from tests.waiting import until


async def level(engine: Engine, store: Store) -> View:
    """The live view, as soon as it stands at the log's end in every lane."""

    async def reached() -> View | None:
        view = await generations.live_view(store)
        if view is None:
            return None
        found = await generations.checkpoints(store, view, range(view.lanes))
        end = (await log.head(engine)).position
        return view if all(checkpoint and checkpoint.position == end for checkpoint in found.values()) else None

    view: View | None = await until(reached)
    assert view is not None
    return view
