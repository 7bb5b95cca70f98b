"""A Prometheus that scrapes processes of the service, where Debian's package of it is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from cli.dev.processes import ROOT
from tests.support.breakable_servers import wait_until
from tests.support.servers import free_port

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
# A long run of the proof takes hours, and a label's series are asked for one metric at a time.
QUERY_TIMEOUT_S = 60.0


class Prometheus:
    """A running server."""

    def __init__(self, address: str) -> None:
        self._address = address

    def query(self, expression: str, **at: str) -> list[Any]:
        """Return the result of an instant query."""
        asked = {"query": expression, **at}
        answer = httpx.get(f"{self._address}/api/v1/query", params=asked, trust_env=False, timeout=QUERY_TIMEOUT_S)
        found: list[Any] = answer.raise_for_status().json()["data"]["result"]
        return found

    def value(self, expression: str) -> float:
        """Return the one value of an expression, 0 when there is none."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else 0.0

    def counters(self) -> list[str]:
        """Return the names of all series of the service that count."""
        found = self.query('count by (__name__) ({__name__=~"follows_.+_(total|count|sum|bucket)"})')
        return sorted(each["metric"]["__name__"] for each in found)

    def resets(self, counter: str, seconds: int) -> dict[str, int]:
        """Return job -> how often a series of this counter went back in the last seconds, at most."""
        found = self.query(f"max by (job) (resets({counter}[{seconds}s]))")
        return {each["metric"]["job"]: int(float(each["value"][1])) for each in found}


def installed_prometheus() -> str | None:
    """Return the path of Prometheus, None where it is not installed."""
    return shutil.which("prometheus")


@contextmanager
def running_prometheus(
    program: str, folder: Path, own: Mapping[str, Mapping[str, str]], interval_ms: int = 200
) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes each of these processes; the job of each is its name."""
    jobs = "".join(
        f"  - {{job_name: {name}, static_configs: [{{targets: ['{settings['FOLLOWS_METRICS']}']}}]}}\n"
        for name, settings in own.items()
    )
    folder.mkdir(exist_ok=True)
    config = folder / "prometheus.yaml"
    config.write_text(
        f"global: {{scrape_interval: {interval_ms}ms, scrape_timeout: {interval_ms}ms}}\n"
        f"rule_files: ['{ALERTS}']\nscrape_configs:\n{jobs}"
    )
    address = f"127.0.0.1:{free_port()}"
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        wait_until(lambda: _is_ready(address))
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
