"""`follows up`: the whole product on this machine, from the servers to a token and three curl lines to paste."""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import click
import httpx
from honcho.colour import get_colours

from cli.dev.console import Console, ConsoleLog
from cli.dev.embedded import embedded, make_data_folder
from cli.dev.folder_lock import FolderLock, locked
from cli.dev.orphans import stop_orphans
from cli.dev.processes import PROCESSES, programs
from cli.dev.server_note import data_folder, forget_libpq_settings, remove_note, write_note
from cli.dev.stop_signal import Stopped, Stopping
from cli.dev.supervisor import SupervisedProcess
from cli.dev.welcome import uses_development_key, welcome
from cli.errors import plain_database_errors
from commands.errors import FollowsError, SettingsError
from commands.settings import SECRETS, setting, switch_from_env
from projections.metrics.address import metrics_address_from_env

# How soon a dead process and Ctrl-C are noticed.
WATCH_POLL_S: Final = 0.1
# One answer of /health/ready, which itself waits for the servers.
READY_TIMEOUT_S: Final = 2.0
# The service is ready long before this, even on a slow machine; the user should learn what is being waited for.
REPORT_WAITING_S: Final = 30.0
DEMO_NOTE: Final = "demo"


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep data in DIR.  [FOLLOWS_DATA; default: .follows]",
)
@click.option("--host", envvar="FOLLOWS_HOST", default="127.0.0.1", show_default=True, help="Listen on this address.")
@click.option(
    "--port",
    envvar="FOLLOWS_PORT",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Listen on this port; 0 takes a free one.",
)
@click.option("--no-demo", is_flag=True, help="Do not load the demo graph into a new database.")
@click.option("--with-parent", is_flag=True, hidden=True, help="Stop when the parent process ends.")
def up(data: Path | None, host: str, port: int, no_demo: bool, with_parent: bool) -> None:
    """Run the whole product on this machine until Ctrl-C.

    PostgreSQL and Valkey are started from their Python packages and keep their data in the data folder, unless
    DATABASE_URL or REDIS_URL name other servers.
    """
    stopping = Stopping()
    stopping.on_signals(os.getppid() if with_parent else None)
    folder = data_folder(data)
    make_data_folder(folder)
    with locked(folder) as lock:
        if orphans := stop_orphans(folder):
            click.echo(f"Ended processes of an earlier run that was killed: {', '.join(orphans)}")
        port = _free_port(host, port)
        try:
            serve(folder, host, port, not no_demo, stopping, lock)
        except Stopped:
            click.echo("Stopped.")
        except FollowsError:
            if not stopping.wait(0):  # else something that was starting failed because something else stopped
                raise
            click.echo("Stopped.")


def serve(folder: Path, host: str, port: int, demo: bool, stopping: Stopping, lock: FolderLock) -> None:
    """Start everything, watch it until ``stopping``, and stop it in the reverse order of the starts.

    Raises Stopped at the regular end, and FollowsError when something does not start or ends by itself.
    """
    console = Console(width=max(map(len, PROCESSES)))
    with ExitStack() as stack:
        click.echo(f"Starting Follows with its data in {folder}")
        environment, servers = _servers(folder, stopping, stack, console)
        environment |= {"FOLLOWS_DATA": str(folder), "FOLLOWS_HOST": host, "FOLLOWS_PORT": str(port)}
        environment |= _keys(folder)
        _migrate(environment["DATABASE_URL"])
        embeds_postgres = not setting("DATABASE_URL")
        has_demo = embeds_postgres and _load_demo(folder, environment["DATABASE_URL"], demo)
        stopping.check()
        write_note(folder, {name: environment[name] for name in SECRETS}, embedded=embeds_postgres)
        stack.callback(remove_note, folder)
        # No load balancer has to be waited for, but the user who presses Ctrl-C waits.
        inherited = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in SECRETS}
        environment = {"FOLLOWS_GRACE_S": "0"} | inherited | environment
        metrics = _metrics_addresses()
        children = [*servers, *_start(folder, environment, metrics, stack, console)]
        stack.callback(lock.set_state, "stopping")
        address = _address(host, port)
        _wait_ready(children, console, address, stopping)
        console.print_block(welcome(folder, address, has_demo, metrics))
        while True:
            _watch(children, stopping)


def _servers(
    folder: Path, stopping: Stopping, stack: ExitStack, console: Console
) -> tuple[dict[str, str], tuple[SupervisedProcess, ...]]:
    """Return DATABASE_URL, REDIS_URL and QUEUE_URL: those of the environment, else of embedded servers, and these."""
    given = {name: value for name in SECRETS if (value := setting(name))}
    if "REDIS_URL" in given:
        given.setdefault("QUEUE_URL", given["REDIS_URL"])
    postgres, valkey = "DATABASE_URL" not in given, "REDIS_URL" not in given
    if postgres:
        forget_libpq_settings()
    servers = stack.enter_context(embedded(folder, stopping, postgres=postgres, valkey=valkey, report=console.say))
    own = zip(SECRETS, (servers.database, servers.views, servers.queue), strict=True)
    return {name: url for name, url in own if url} | given, servers.servers


def _metrics_addresses() -> dict[str, str]:
    """Return where each process serves its metrics: from FOLLOWS_METRICS on, else at free ports of this machine."""
    given = metrics_address_from_env()
    if given is None:
        return {name: f"127.0.0.1:{_free_port('127.0.0.1', 0)}" for name in PROCESSES}
    host, port = given
    shown = f"[{host}]" if ":" in host else host
    return {name: f"{shown}:{port + more}" for more, name in enumerate(PROCESSES)}


def _start(
    folder: Path, environment: Mapping[str, str], metrics: Mapping[str, str], stack: ExitStack, console: Console
) -> Iterator[SupervisedProcess]:
    """Start the processes, each with its lines on the console in a colour of its own."""
    colours = dict(zip(PROCESSES, get_colours(), strict=False))
    for program in programs(environment, metrics):
        log = ConsoleLog(console, program.name, colours[program.name])
        yield stack.enter_context(SupervisedProcess(program, folder, log, console.say))


def _keys(folder: Path) -> dict[str, str]:
    """Return the settings of the configured key set, else of the development key, which is then accepted."""
    from cli.dev.dev_key import ensure_dev_key, expected_claims

    if not uses_development_key(folder):
        jwks = setting("FOLLOWS_JWKS")
        return {"FOLLOWS_JWKS": jwks if "://" in jwks else str(Path(jwks).expanduser().absolute())}
    expected, stage = expected_claims(), setting("FOLLOWS_ENV") or "development"
    return {
        "FOLLOWS_JWKS": str(ensure_dev_key(folder)),
        "FOLLOWS_ISSUER": expected["iss"],
        "FOLLOWS_AUDIENCE": expected["aud"],
        "FOLLOWS_ENV": stage,
    }


def _migrate(database_url: str) -> None:
    from commands.db.migrate import upgrade_database

    with plain_database_errors():
        upgrade_database(database_url, transaction_pooling=switch_from_env("FOLLOWS_TRANSACTION_POOLING"))


def _load_demo(folder: Path, database_url: str, wanted: bool) -> bool:
    """Load the demo graph into a new embedded database; return whether the database has it.

    A note in the folder is written before and after the load: a load that was killed is repeated, and loading twice
    changes nothing.
    """
    note = folder / DEMO_NOTE
    state = note.read_text() if note.exists() else ("loading" if wanted else "none")
    if state == "loading":
        note.write_text(state)
        click.echo("Loading the demo graph")
        from cli.dev.demo import load_demo
        from commands.db.postgres import PostgresSettings

        load_demo(PostgresSettings(database_url))
        state = "loaded"
    note.write_text(state)
    return state == "loaded"


def _wait_ready(children: Sequence[SupervisedProcess], console: Console, address: str, stopping: Stopping) -> None:
    waited = 0.0
    with httpx.Client(base_url=address, trust_env=False, timeout=READY_TIMEOUT_S) as client:
        while not _is_ready(client):
            _watch(children, stopping)
            waited += WATCH_POLL_S
            if waited >= REPORT_WAITING_S:
                waited = 0.0
                console.say(f"still waiting for {address}/health/ready")


def _watch(children: Sequence[SupervisedProcess], stopping: Stopping) -> None:
    """Sleep a moment, then restart what has died. Raises Stopped, and ProcessFailed when a restart would not help."""
    stopping.wait(WATCH_POLL_S)
    stopping.check()
    for child in children:
        child.restart_if_dead()


def _is_ready(client: httpx.Client) -> bool:
    try:
        state = client.get("/health/ready").json()
        return bool(state["reads"] and state["writes"])
    except httpx.TransportError:
        return False


def _free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0; raises SettingsError when it is taken.

    granian itself would share the port with another granian without an error.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = f"cannot listen on {host} port {port}: {error.strerror}; see --host and --port"
            raise SettingsError(reason) from None
        return int(probe.getsockname()[1])


def _address(host: str, port: int) -> str:
    """Return the URL at which this machine reaches the service."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
