"""A second service beside a running one: with some other settings, and with the first one's key."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.breakable_servers import wait_until
from tests.support.servers import Service, free_port


@contextmanager
def beside(service: Service, folder: Path, **environment: str) -> Iterator[Service]:
    """Yield a service with other settings than the first one's and with its key; the caller starts its processes."""
    folder.mkdir()
    port = str(free_port())
    given = {**service.environment, **environment, "FOLLOWS_PORT": port}
    other = Service(f"http://127.0.0.1:{port}", folder, given, {})
    try:
        yield other
    finally:
        for name in list(other.processes):
            other.kill(name)
        print(other.logs())


def start_web(service: Service) -> None:
    """Start a web process that need not become ready."""
    service.start("web")

    def is_live() -> bool:
        try:
            return httpx.get(f"{service.base_url}/health/live", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(is_live)


def client(key: Service, at: Service, user: str, role: str = "user") -> httpx.Client:
    """Return a client of ``user`` at another service than the one that has the key."""
    headers = {"Authorization": f"Bearer {key.token(user, role)}"}
    return httpx.Client(base_url=at.base_url, headers=headers, trust_env=False, timeout=30)
