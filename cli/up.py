"""`follows up`: the whole product on this machine, from servers to a token and three curl lines to paste."""

import os
import socket
from contextlib import ExitStack
from pathlib import Path

import click
import httpx

from cli.embedded import embedded, make_data_folder
from cli.errors import plain_database_errors
from cli.folder_lock import FolderLock, locked
from cli.leftovers import stop_leftovers
from cli.procfile import Processes
from cli.running import data_folder, forget_servers, note_servers
from cli.server_process import ServerProcess
from cli.stopping import Stopped, Stopping
from cli.welcome import believes_development_key, welcome
from commands.errors import FollowsError, SettingsError

POLL_S = 0.1
# Long before this a service on a slow machine is ready; who waits should learn what it waits for.
IMPATIENT_S = 30.0
DEMO_NOTE = "demo"
Servers = tuple[ServerProcess, ...]
URLS = ("DATABASE_URL", "REDIS_URL", "QUEUE_URL")


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Data folder.  [FOLLOWS_DATA; default: .follows]")
@click.option("--host", envvar="FOLLOWS_HOST", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    envvar="FOLLOWS_PORT",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one.",
)
@click.option("--no-demo", is_flag=True, help="Leave a new store empty.")
@click.option("--with-parent", is_flag=True, hidden=True, help="Stop when the process that started this one ends.")
def up(data: Path | None, host: str, port: int, no_demo: bool, with_parent: bool) -> None:
    """Run the whole product on this machine until Ctrl-C.

    PostgreSQL and Valkey are started from their Python packages with their data in the data folder, unless
    DATABASE_URL or REDIS_URL name servers to use instead.
    """
    stopping = Stopping()
    stopping.on_signals(os.getppid() if with_parent else None)
    folder = data_folder(data)
    make_data_folder(folder)
    with locked(folder) as lock:
        if left := stop_leftovers(folder):
            click.echo(f"Ended what an earlier run left behind: {', '.join(left)}")
        port = _claim(host, port)
        try:
            run(folder, host, port, not no_demo, stopping, lock)
        except Stopped:
            click.echo("Stopped.")
        except FollowsError:
            if not stopping.wait(0):  # else what was being started has met what was being stopped
                raise
            click.echo("Stopped.")


def run(folder: Path, host: str, port: int, demo: bool, stopping: Stopping, lock: FolderLock) -> None:
    """Everything up until ``stopping``, then everything down, last started first.

    Raises Stopped at its regular end, and FollowsError when something does not start or ends by itself.
    """
    with ExitStack() as stack:
        click.echo(f"Starting Follows with its data in {folder}")
        environment, servers = _servers(folder, stopping, stack)
        environment |= {"FOLLOWS_DATA": str(folder), "FOLLOWS_HOST": host, "FOLLOWS_PORT": str(port)}
        environment |= _keys(folder)
        _migrate(environment["DATABASE_URL"])
        has_demo = not os.environ.get("DATABASE_URL") and _load_demo(folder, environment["DATABASE_URL"], demo)
        stopping.check()
        note_servers(folder, {name: environment[name] for name in URLS})
        stack.callback(forget_servers, folder)
        # No balancer has to leave here, and whoever presses Ctrl-C waits.
        processes = Processes(folder, {"FOLLOWS_GRACE_S": "0"} | os.environ | environment)
        stack.callback(processes.stop)
        stack.callback(lock.say, "stopping")
        processes.start()
        address = _address(host, port)
        _wait_ready(processes, servers, address, stopping)
        processes.say_apart(welcome(folder, address, has_demo))
        while True:
            _wait(processes, servers, stopping)


def _servers(folder: Path, stopping: Stopping, stack: ExitStack) -> tuple[dict[str, str], Servers]:
    """DATABASE_URL, REDIS_URL and QUEUE_URL: those of the environment, and embedded servers for the rest."""
    given = {name: os.environ[name] for name in URLS if os.environ.get(name)}
    if "REDIS_URL" in given:
        given.setdefault("QUEUE_URL", given["REDIS_URL"])
    servers = stack.enter_context(
        embedded(folder, stopping, postgres="DATABASE_URL" not in given, valkey="REDIS_URL" not in given)
    )
    own = zip(URLS, (servers.database, servers.views, servers.queue), strict=True)
    return {name: url for name, url in own if url} | given, servers.servers


def _keys(folder: Path) -> dict[str, str]:
    """The settings of a real key set where one is configured, else the development key's, which is allowed here."""
    from cli.dev_key import DEV_ISSUER, ensure_dev_key

    if not believes_development_key(folder):
        jwks = os.environ["FOLLOWS_JWKS"]
        return {"FOLLOWS_JWKS": jwks if "://" in jwks else str(Path(jwks).expanduser().absolute())}
    issuer = os.environ.get("FOLLOWS_ISSUER") or DEV_ISSUER
    stage = os.environ.get("FOLLOWS_ENV") or "development"
    return {"FOLLOWS_JWKS": str(ensure_dev_key(folder)), "FOLLOWS_ISSUER": issuer, "FOLLOWS_ENV": stage}


def _migrate(database_url: str) -> None:
    from commands.migrate import upgrade
    from commands.postgres import translated_errors

    with plain_database_errors(), translated_errors():
        upgrade(database_url)


def _load_demo(folder: Path, database_url: str, wanted: bool) -> bool:
    """Loads the demo graph on the first start of an embedded store; whether the store has it.

    The note is written before the load and completed after it: a load that was killed is taken up again, and
    loading twice changes nothing.
    """
    note = folder / DEMO_NOTE
    state = note.read_text() if note.exists() else ("loading" if wanted else "none")
    if state == "loading":
        note.write_text(state)
        click.echo("Loading the demo graph")
        from cli.demo import load_demo

        load_demo(database_url)
        state = "loaded"
    note.write_text(state)
    return state == "loaded"


def _wait_ready(processes: Processes, servers: Servers, address: str, stopping: Stopping) -> None:
    waited = 0.0
    with httpx.Client(base_url=address, trust_env=False, timeout=2) as client:
        while not _is_ready(client):
            _wait(processes, servers, stopping)
            waited += POLL_S
            if waited >= IMPATIENT_S:
                waited = 0.0
                processes.say(f"still waiting for {address}/health/ready")


def _wait(processes: Processes, servers: Servers, stopping: Stopping) -> None:
    """A moment in which all goes well, or well again; raises Stopped, and FollowsError when something is broken."""
    stopping.wait(POLL_S)
    stopping.check()
    for server in servers:
        if server.revive():
            processes.say(f"{server.name} ended unasked; starting it again")
    processes.revive()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def _claim(host: str, port: int) -> int:
    """A port that nobody listens on; granian itself would share it with another granian without a word."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = f"cannot listen on {host} port {port}: {error.strerror}; see --host and --port"
            raise SettingsError(reason) from None
        return int(probe.getsockname()[1])


def _address(host: str, port: int) -> str:
    """Where this machine reaches the service."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
