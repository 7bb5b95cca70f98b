"""What a process shows at the address of its metrics."""

from collections.abc import Mapping, Sequence

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.servers import free_port

PROCESSES = ("web", "worker", "rebuilder")


def metrics_settings(names: Sequence[str] = PROCESSES) -> dict[str, Mapping[str, str]]:
    """Return an own setting for each process: a free port for its metrics."""
    return {name: {"FOLLOWS_METRICS": f"127.0.0.1:{free_port()}"} for name in names}


def ask(own: Mapping[str, Mapping[str, str]], name: str, path: str) -> httpx.Response:
    """Ask a process at the address of its metrics."""
    return httpx.get(f"http://{own[name]['FOLLOWS_METRICS']}{path}", trust_env=False, timeout=10)


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        self.samples = [sample for family in families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with this name and these labels, whatever their others are."""
        wanted = labels.items()
        return sum(one.value for one in self.samples if one.name == name and wanted <= one.labels.items())

    def labels(self, name: str) -> set[tuple[str, ...]]:
        """Return the labels' values of the samples with this name."""
        return {tuple(one.labels.values()) for one in self.samples if one.name == name}


def scrape(own: Mapping[str, Mapping[str, str]], name: str) -> Scrape:
    """Return what a process shows."""
    return Scrape(ask(own, name, "/metrics").raise_for_status().text)
