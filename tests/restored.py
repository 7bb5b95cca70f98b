"""A database that is put back to what it was, as an operator does with a backup."""

from tests.servers import Servers


class Restored:
    """A database that can be put back to what it was."""

    def __init__(self, servers: Servers, url: str) -> None:
        self._servers = servers
        self._name = url.partition("?")[0].rpartition("/")[2]

    def save(self) -> None:
        """Remember it as it is now; nobody may be connected."""
        self._servers.administer(f"CREATE DATABASE {self._name}_saved TEMPLATE {self._name}")

    def restore(self) -> None:
        """Put it back, under everybody's hands."""
        self._servers.administer(f"DROP DATABASE {self._name} WITH (FORCE)")
        self._servers.administer(f"CREATE DATABASE {self._name} TEMPLATE {self._name}_saved")
        self._servers.administer(f"DROP DATABASE {self._name}_saved")
