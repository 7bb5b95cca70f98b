"""`follows web`, `worker` and `rebuilder`: the processes of the service, each until SIGTERM.

Their code is found where `follows` is installed: a folder named `api` or `commands` in the current one is not imported.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from importlib import import_module
from typing import Any, Final

import click

from commands.errors import SettingsError
from commands.logs import exit_refused, log_to_stderr, server_logging
from commands.process import name_process
from commands.settings import log_level
from projections.metrics.folder import ignore_folder, metrics_folder

APP: Final = "api.app:app"
# Connections that wait to be accepted, and those that a process has at once: clients beyond these wait.
BACKLOG: Final = 4_096
BACKPRESSURE: Final = 16_384
# After FOLLOWS_GRACE_S, for requests that are under way; then the process is killed.
WEB_KILL_TIMEOUT_S: Final = 15
# What a forked process must close: a port that it kept open could not be used by the next parent.
_parents_sockets: Final[list[socket.socket]] = []


_metrics_option: Final = click.option(
    "--metrics",
    envvar="FOLLOWS_METRICS",
    default="",
    metavar="HOST:PORT",
    help="Serve metrics and health at this address, for Prometheus and supervisors.",
)


@click.command("web")
@click.option("--host", envvar="FOLLOWS_HOST", default="127.0.0.1", show_default=True, help="Listen on this address.")
@click.option("--port", envvar="FOLLOWS_PORT", default=8000, show_default=True, help="Listen on this port.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Run so many processes.")
@click.option(
    "--head-timeout",
    envvar="FOLLOWS_HEAD_TIMEOUT_S",
    default=30,
    show_default=True,
    type=click.IntRange(1, 60),
    metavar="SECONDS",
    help="Close connections on which a request's head takes longer.",
)
@_metrics_option
def web(host: str, port: int, workers: int, head_timeout: int, metrics: str) -> None:
    """Serve both dialects until SIGTERM; a process that dies is replaced."""
    name_process("web")
    with ExitStack() as stack:
        try:
            level = log_level()
            log_to_stderr(level)
            ignore_folder()
            if metrics:
                _show_metrics(stack, metrics)
        except SettingsError as error:
            exit_refused(error)
        _serve(host, port, workers, head_timeout, level)


def _show_metrics(stack: ExitStack, address: str) -> None:
    folder = stack.enter_context(metrics_folder())
    from projections.metrics.summed import serving_sum

    _parents_sockets.append(stack.enter_context(serving_sum(address, folder)).socket)


def _serve(host: str, port: int, workers: int, head_timeout: int, level: str) -> None:
    from granian.constants import HTTPModes, Interfaces, Loops
    from granian.http import HTTP1Settings
    from granian.log import LogLevels
    from granian.server import Server

    Server(
        APP,
        host,
        port,
        interface=Interfaces.ASGI,
        workers=workers,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        backpressure=BACKPRESSURE,
        http1_settings=HTTP1Settings(header_read_timeout=head_timeout * 1_000),
        respawn_failed_workers=True,
        workers_kill_timeout=WEB_KILL_TIMEOUT_S,
        log_level=LogLevels(level.lower()),
        log_dictconfig=server_logging(level),
    ).serve(target_loader=load)


def load(target: str) -> Any:
    """Return the application that ``target`` names, as ``module:attribute``, for a new process; the server's own loader
    would look for it in the current folder first."""
    for inherited in _parents_sockets:
        inherited.close()
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


@click.command("worker")
@_metrics_option
def worker(metrics: str) -> None:
    """Project the log into the views until SIGTERM."""
    ignore_folder()
    from workers.process import run_worker

    run_worker(metrics)


@click.command("rebuilder")
@_metrics_option
def rebuilder(metrics: str) -> None:
    """Do the rebuilds that `follows rebuild --job` asks for, until SIGTERM."""
    ignore_folder()
    from workers.process import run_rebuilder

    run_rebuilder(metrics)
