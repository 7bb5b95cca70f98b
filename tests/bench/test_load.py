"""The load generator, against a small real server: it counts statuses, errors and latencies."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from bench.generator import Outcome, Spec, main
from bench.graph import generate_graph
from bench.load import percentile
from bench.requests import Request, Requests, read


def test_percentile_of_sorted_values_and_of_none() -> None:
    values = [float(number) for number in range(100)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([], 0.5)) == (50, 99, 0)


def test_requests_already_sent_are_not_written_again(tmp_path: Path) -> None:
    requests = Requests([Request(f"/{number}", 0) for number in range(3)], ["secret"], once=True, sent=1)
    files = [Path(path) for path in requests.write(tmp_path)]
    sent = read(files[0], files[1], "host")
    assert [kind for kind, _ in sent] == ["all", "all"]
    assert sent[0][1] == b"GET /1 HTTP/1.1\r\nHost: host\r\nAuthorization: Bearer secret\r\n\r\n"


def test_graph_of_a_seed_is_the_same_and_has_a_heavy_tail() -> None:
    graph = generate_graph(users=200, largest=150)
    assert graph == generate_graph(users=200, largest=150) != generate_graph(seed=1, users=200, largest=150)
    sizes = [len(graph.followers[place]) for place in graph.by_followers]
    assert sizes[0] > 100 and sizes[-1] == 1 and len(set(graph.edges)) == len(graph.edges)
    assert all(follower != followed for follower, followed in graph.edges)


@pytest.mark.parametrize("rate", [None, 500.0])
async def test_answers_are_counted_by_status(tmp_path: Path, rate: float | None) -> None:
    outcome = await run_against(tmp_path, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", rate)
    assert set(outcome.statuses) == {200} and outcome.broken == 0
    assert outcome.requests == outcome.statuses[200] == len(outcome.latencies_ms["all"]) > 0


async def test_error_is_counted_as_its_status(tmp_path: Path) -> None:
    outcome = await run_against(tmp_path, b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", None)
    assert set(outcome.statuses) == {503}


async def test_answer_in_pieces_is_counted_once(tmp_path: Path) -> None:
    outcome = await run_against(tmp_path, b"HTTP/1.1 201 Made\r\nContent-Length: 5\r\n\r\nhello", None, pieces=7)
    assert set(outcome.statuses) == {201} and outcome.requests > 0


async def run_against(folder: Path, answer: bytes, rate: float | None, pieces: int = 1) -> Outcome:
    """Run a tenth of a second of load against a server that always sends this answer."""

    handling: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handling.append(task)
        with suppress(ConnectionError):  # at its end, the load generator disconnects during an answer
            while await reader.readline():
                while (await reader.readline()).strip():
                    pass
                size = -(-len(answer) // pieces)
                for start in range(0, len(answer), size):
                    writer.write(answer[start : start + size])
                    await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        files = Requests([Request("/")]).write(folder)
        outcome = await main(Spec(port, 4, 0.1, *files, rate=rate))
        async with asyncio.timeout(5):
            await asyncio.gather(*handling)
    return outcome
