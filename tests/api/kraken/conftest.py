"""Fixtures of the /kraken tests: the application as for /v1, without a rate limit, since walks send many requests."""

import pytest


@pytest.fixture(scope="module")
def module_settings(module_settings: dict[str, str]) -> dict[str, str]:
    """The environment of this module's service."""
    return {**module_settings, "FOLLOWS_RATE_LIMIT": "0"}
