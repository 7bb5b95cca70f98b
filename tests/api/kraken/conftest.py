"""What the tests of /kraken share: the application as in /v1's, without a limit on requests, since walks make many."""

import pytest


@pytest.fixture(scope="module")
def module_settings(module_settings: dict[str, str]) -> dict[str, str]:
    """The environment of this module's service."""
    return {**module_settings, "FOLLOWS_RATE_LIMIT": "0"}
