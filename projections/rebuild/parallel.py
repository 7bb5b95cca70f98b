"""Filling a generation by several processes, each with its share of the partitions."""

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

# The interval at which the parent shows progress; the fillers only report their end.
FILLERS_PROGRESS_S: Final = 0.5
_ROOT: Final = Path(__file__).resolve().parents[2]


class FillTask(msgspec.Struct, frozen=True):
    """The share of one process: the partitions with ``partition % count == index``, at ``rate`` events per second."""

    view: View
    fence: int
    index: int
    count: int
    rate: int | None


async def fill_by_processes(
    view: View, fence: int, count: int, rate: int | None, show_progress: Callable[[], Awaitable[None]]
) -> bool:
    """Let ``count`` processes fill a share of the partitions each; return False if one of them failed.

    ``show_progress`` is called meanwhile. Each process holds one end of a pipe and ends when this process closes the
    other or dies.
    """
    share = None if rate is None else max(1, rate // count)
    began = time.monotonic()
    fillers = [await _start(FillTask(view, fence, index, count, share)) for index in range(count)]
    waiting = [asyncio.create_task(filler.wait()) for filler in fillers]
    try:
        while not all(task.done() for task in waiting):
            await asyncio.wait(waiting, timeout=FILLERS_PROGRESS_S)
            await show_progress()
    finally:
        for filler in fillers:
            if filler.returncode is None:
                filler.terminate()
        await asyncio.gather(*waiting)
    logger.info("the fillers took %.1f s", time.monotonic() - began)
    return not any(filler.returncode for filler in fillers)


async def _start(task: FillTask) -> asyncio.subprocess.Process:
    text = msgspec.json.encode(task).decode()
    module = ("-m", "projections.rebuild.filler", text)
    return await asyncio.create_subprocess_exec(sys.executable, *module, cwd=_ROOT, stdin=asyncio.subprocess.PIPE)
