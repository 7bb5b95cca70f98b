"""A web process whose Redis resets its connections: commands are done, reads are 503, and nothing is 500."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.in_process import in_process, running_loop
from tests.support.resetting_server import resetting_server

# uvloop warns of a connection that is open at the loop's end, and closes it afterwards. As an error, the warning would
# keep the loop from ever ending.
pytestmark = pytest.mark.filterwarnings("default:unclosed resource:ResourceWarning")


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run the tests of this module under uvloop, as the process does: its transports raise errors of other classes."""
    return "asyncio", {"use_uvloop": True}


@pytest.mark.parametrize("real", [False, True], ids=["OK", "real answers"])
async def test_redis_that_resets_its_connections_fails_no_command(
    own_settings: dict[str, str], redis_url: str, keys: Path, real: bool
) -> None:
    """The log has the command, so its answer does not depend on Redis. When Redis is back, all is shown."""
    path, _, database = redis_url.removeprefix("unix://").partition("?db=")
    with resetting_server(path, real=real) as server:
        url = f"redis://127.0.0.1:{server.port}/{database}"
        settings = {**own_settings, "REDIS_URL": url, "QUEUE_URL": url, "FOLLOWS_VISIBLE_WAIT_MS": "0"}
        async with in_process(settings, keys, with_loop=False) as service:
            for number in range(4):
                path = f"/v1/users/person-{number}"
                created = await service.platform.put(path, json={})
                assert created.status_code == 201, created.text
                assert (await service.platform.delete(path)).status_code == 204
                assert (await service.platform.get(path)).status_code == 503
            server.forward()
            async with running_loop(settings):
                await service.ready()
                await service.finish_erasures()
                assert (await service.platform.get("/v1/users/person-0")).status_code == 404
