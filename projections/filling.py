"""Filling a generation by several processes, each with its share of the lanes: starting them and seeing them end."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from projections.keys import View

logger: Final = logging.getLogger(__name__)

# How often a parent looks at what its fillers have done.
LOOK_S: Final = 0.5
ROOT: Final = Path(__file__).resolve().parents[1]


class Share(msgspec.Struct, frozen=True):
    """One process' part: the lanes whose number leaves ``index`` when divided by ``count``, at this ``rate``."""

    view: View
    fence: int
    index: int
    count: int
    rate: int | None


async def fill_by_processes(
    view: View, fence: int, count: int, rate: int | None, look: Callable[[], Awaitable[None]]
) -> bool:
    """Let ``count`` processes fill a share of the lanes each; False when one fails. ``look`` is called meanwhile.

    Each holds one end of a pipe whose other end is ours, and ends when we do, however that comes about.
    """
    share = None if rate is None else max(1, rate // count)
    began = time.monotonic()
    fillers = [await _start(Share(view, fence, index, count, share)) for index in range(count)]
    waiting = [asyncio.create_task(filler.wait()) for filler in fillers]
    try:
        while not all(task.done() for task in waiting):
            await asyncio.wait(waiting, timeout=LOOK_S)
            await look()
    finally:
        for filler in fillers:
            if filler.returncode is None:
                filler.terminate()
        await asyncio.gather(*waiting)
    logger.info("the fillers took %.1f s", time.monotonic() - began)
    return not any(filler.returncode for filler in fillers)


async def _start(share: Share) -> asyncio.subprocess.Process:
    text = msgspec.json.encode(share).decode()
    module = ("-m", "projections.filler", text)
    return await asyncio.create_subprocess_exec(sys.executable, *module, cwd=ROOT, stdin=asyncio.subprocess.PIPE)
