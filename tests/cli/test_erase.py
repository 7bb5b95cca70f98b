"""`follows erase --again`: erasures that a restore of the database took back are done again, and nothing else."""

from pathlib import Path

import pytest

from commands.db.postgres import Engine
from commands.directory import Directory
from commands.erasure import end_some_follows
from commands.erasure_file import ErasureFile
from commands.users import UserChanges
from tests.support.cli_runner import Tools, tools_on
from tests.support.fixtures import engine as engine
from tests.support.restored_database import Restored
from tests.support.servers import Servers


@pytest.fixture
def tools(database_url: str, redis_url: str, queue_url: str, tmp_path: Path) -> Tools:
    """Commands on empty servers."""
    return tools_on(database_url, redis_url, queue_url, tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of erasures."""
    return tmp_path / "erasures"


@pytest.fixture
def cut_off(tmp_path: Path) -> Path:
    """Another such file. The disk was full at its first line."""
    made = tmp_path / "cut-off"
    made.write_bytes(b'\n{"id":"an')
    return made


async def _put(engine: Engine, *ids: str) -> None:
    for id_ in ids:
        await Directory(engine).put(id_, UserChanges(bio="private"))


async def _erase(engine: Engine, file: Path, *ids: str) -> None:
    """Erase users to the end, as web and worker processes with this file do."""
    for id_ in ids:
        directory = Directory(engine, ErasureFile(file))
        number = await directory.number(id_)
        await directory.erase(id_)
        while not (await end_some_follows(engine, number))[1]:
            pass


async def _erased(engine: Engine, *ids: str) -> list[bool]:
    found = [await Directory(engine).find(id_) for id_ in ids]
    return [user is not None and user.erased for user in found]


async def test_restored_database_has_no_erased_person(
    servers: Servers, database_url: str, engine: Engine, tools: Tools, file: Path
) -> None:
    """Only accounts of the file are erased: not one that was registered again before the backup, nor others."""
    restored = Restored(servers, database_url)
    await _put(engine, "ann", "bob", "cat", "dan")
    await _erase(engine, file, "ann", "bob")
    await _put(engine, "bob")
    await engine.dispose()
    restored.save()
    await _put(engine, "eve")
    await _erase(engine, file, "cat", "eve")
    restored.restore()
    await engine.dispose()
    assert await _erased(engine, "ann", "bob", "cat", "dan") == [True, False, False, False]
    done = tools.follows_process("erase", "--again", file)
    assert (done.code, done.out) == (0, "4 accounts noted, 1 of them erased again\n")
    assert await _erased(engine, "ann", "bob", "cat", "dan") == [True, False, True, False]
    assert tools.follows_process("erase", "--again", file, "--json").json == {"noted": 4, "erased": 0, "unreadable": 0}
    await engine.dispose()


async def test_id_that_is_registered_again_after_the_restore_stays(
    servers: Servers, database_url: str, engine: Engine, tools: Tools, file: Path
) -> None:
    restored = Restored(servers, database_url)
    restored.save()
    await _put(engine, "ann")
    await _erase(engine, file, "ann")
    restored.restore()
    await engine.dispose()
    await _put(engine, "ann")
    assert tools.follows_process("erase", "--again", file).out == "1 accounts noted, 0 of them erased again\n"
    assert await _erased(engine, "ann") == [False]


async def test_several_files_are_read_and_lines_that_were_cut_off_are_named(
    engine: Engine, tools: Tools, file: Path, cut_off: Path
) -> None:
    await _put(engine, "ann", "bob")
    await _erase(engine, cut_off, "ann")
    await _erase(engine, file, "bob")
    done = tools.follows_process("erase", "--again", file, "--again", cut_off)
    assert (done.code, done.out) == (1, "2 accounts noted, 0 of them erased again\n")
    assert done.err == "1 lines cannot be read: each is an erasure that was refused, or damage\n"


def test_missing_file_is_wrong_usage(tools: Tools, file: Path) -> None:
    assert tools.follows("erase", "--again", file).code == 2
    assert tools.follows("erase").code == 2
