"""TLS to the views and to the queue: the name in the certificate counts, and a client may have a certificate, too."""

import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from commands.errors import ViewsUnavailable
from projections.client.client import RedisClientSettings, open_redis
from projections.client.server_check import check_redis
from projections.signals.job_queue import open_queue
from tests.support.certificates import certificate_for_loopback
from tests.support.proxy import Proxy, listening
from tests.support.queues import queue_of


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return certificate_for_loopback(tmp_path)


@pytest.fixture
async def port(certificate: Path, server_path: str) -> AsyncIterator[int]:
    """The port of a server that asks for the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    proxy = Proxy(server_path)
    async with listening(proxy, context) as number:
        yield number
        await proxy.close()


@pytest.mark.parametrize(
    ("host", "query", "works"),
    [
        ("127.0.0.1", "", True),
        ("localhost", "", False),
        ("localhost", "&ssl_check_hostname=false", True),
        ("localhost", "&ssl_cert_reqs=none", True),
    ],
)
async def test_certificate_for_another_name_is_refused(
    host: str, query: str, works: bool, port: int, certificate: Path
) -> None:
    """By the views, and by the one function that opens arq's connections and the listeners'."""
    url = f"rediss://{host}:{port}/0?ssl_ca_certs={certificate}&ssl_certfile={certificate}{query}"
    redis = open_redis(RedisClientSettings(url))
    if works:
        await check_redis(redis)
        await (await open_queue(queue_of(url))).aclose()
    else:
        with pytest.raises(ViewsUnavailable):
            await check_redis(redis)
        with pytest.raises((RedisError, OSError)):
            await open_queue(queue_of(url))
    await redis.close()


async def test_context_is_made_once_until_a_certificate_is_renewed(
    port: int, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To make one takes a tenth of a second, in which a web process answers nothing."""
    made = list[ssl.SSLContext]()
    make = ssl.create_default_context

    def counted() -> ssl.SSLContext:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", counted)
    queue = queue_of(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}&ssl_certfile={certificate}")
    for _ in range(2):
        await (await open_queue(queue)).aclose()
    assert len(made) == 1
    os.utime(certificate, (1, 1))
    await (await open_queue(queue)).aclose()
    assert len(made) == 2


async def test_client_without_a_certificate_is_refused_by_the_server(port: int, certificate: Path) -> None:
    with pytest.raises((RedisError, OSError)):
        await open_queue(queue_of(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}"))
