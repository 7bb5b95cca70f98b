"""Supervised processes: restarted when they die, stopped in order, with a log each."""

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from cli.dev.console import Console, ConsoleLog
from cli.dev.orphans import stop_orphans
from cli.dev.stop_signal import Stopped, Stopping
from cli.dev.supervisor import (
    RESTART_PAUSE_S,
    RESTART_WINDOW_S,
    RESTARTS_MAX,
    LogFile,
    ProcessFailed,
    Program,
    Restarts,
    SupervisedProcess,
)
from tests.support.breakable_servers import wait_until
from tests.support.clock import Clock

Shell = Callable[..., SupervisedProcess]


@pytest.fixture
def clock() -> Clock:
    """The time of all restarts."""
    return Clock(0.0)


@pytest.fixture
def reports() -> list[str]:
    """The lines that have been reported."""
    return []


@pytest.fixture
def shell(tmp_path: Path, clock: Clock, reports: list[str]) -> Shell:
    """Make a process that runs a shell script."""

    def make(name: str, script: str, *, stop_timeout_s: float = 30.0, after_exit: bool = False) -> SupervisedProcess:
        program = Program(
            name=name,
            command=["sh", "-c", script],
            cwd=tmp_path,
            environment=os.environ,
            stop_timeout_s=stop_timeout_s,
            restart_after_exit=after_exit,
        )
        return SupervisedProcess(program, tmp_path, LogFile(tmp_path / f"{name}.log"), reports.append, Restarts(clock))

    return make


def kill(process: SupervisedProcess) -> None:
    """Kill the process and wait until it has ended."""
    process.child.kill()
    process.child.wait()


def test_restarts_are_limited_within_a_window(clock: Clock) -> None:
    restarts = Restarts(clock)
    for _ in range(RESTARTS_MAX):
        assert restarts.due()
        assert not restarts.used_up()
        restarts.note()
        assert not restarts.due()
        clock.time += RESTART_PAUSE_S
    assert restarts.used_up()
    clock.time = RESTART_WINDOW_S
    assert not restarts.used_up()


def test_killed_process_is_restarted_until_it_dies_too_often(shell: Shell, clock: Clock, reports: list[str]) -> None:
    with shell("web", "echo an error; exec sleep 1000") as process:
        for count in range(1, RESTARTS_MAX + 1):
            before = process.child.pid
            process.restart_if_dead()
            assert process.child.pid == before
            kill(process)
            process.restart_if_dead()
            assert process.child.pid != before
            assert reports == ["web was killed by signal 9; starting it again"] * count
            clock.time += RESTART_PAUSE_S
        kill(process)
        with pytest.raises(ProcessFailed, match=r"web was killed by signal 9 after 5 restarts within 60 s: .*stopped"):
            process.restart_if_dead()


def test_restart_waits_for_the_pause(shell: Shell, clock: Clock) -> None:
    """A process that dies again at once is not restarted before the pause has passed."""
    with shell("web", "exec sleep 1000") as process:
        kill(process)
        process.restart_if_dead()
        kill(process)
        dead = process.child.pid
        process.restart_if_dead()
        assert process.child.pid == dead
        clock.time = RESTART_PAUSE_S
        process.restart_if_dead()
        assert process.child.pid != dead


def test_exit_is_an_error_unless_the_program_restarts_after_it(
    shell: Shell, tmp_path: Path, reports: list[str]
) -> None:
    with shell("web", "echo FATAL: no settings; echo bye; exit 3") as process:
        process.child.wait()
        with pytest.raises(ProcessFailed) as failed:
            process.restart_if_dead()
    log = tmp_path / "web.log"
    assert failed.value.message == (f"web ended with code 3: FATAL: no settings (see {log}); everything was stopped")
    with shell("postgres", "test -e here && exec sleep 1000; touch here", after_exit=True) as process:
        process.child.wait()
        process.restart_if_dead()
        assert process.child.poll() is None
    assert reports[0] == "postgres ended with code 0; starting it again"


def test_processes_stop_in_reverse_order(shell: Shell, tmp_path: Path, reports: list[str]) -> None:
    """Their children end with them, also those that ignore the signal, and nothing is left on record."""
    with ExitStack() as stack:
        for name in ("first", "second"):
            stack.enter_context(shell(name, "sleep 1000 & exec sleep 1000"))
        stubborn = shell("third", "trap '' TERM; echo ready; sleep 1000 & wait; sleep 1000", stop_timeout_s=0.1)
        stack.enter_context(stubborn)
        wait_until(lambda: "ready" in (tmp_path / "third.log").read_text())
    assert reports == ["stopping third", "third did not stop within 0 s: killed", "stopping second", "stopping first"]
    assert stubborn.child.returncode == -signal.SIGKILL
    assert stop_orphans(tmp_path) == []


def test_start_waits_until_ready_or_fails(shell: Shell, tmp_path: Path) -> None:
    stopping = Stopping()
    with shell("good", "touch ready; exec sleep 1000") as process:
        process.wait_until((tmp_path / "ready").exists, stopping)
    message = r"bad did not start: error: no disk \(see .*bad\.log\)"
    with shell("bad", "echo error: no disk; echo bye") as process, pytest.raises(ProcessFailed, match=message):
        process.wait_until(lambda: False, stopping)
    stopping.asked = True
    with shell("slow", "exec sleep 1000") as process, pytest.raises(Stopped):
        process.wait_until(lambda: False, stopping)


def test_log_of_the_run_before_is_kept(shell: Shell, tmp_path: Path) -> None:
    for text in ("one", "two"):
        with shell("web", f"echo {text}") as process:
            process.child.wait()
    assert (tmp_path / "web.log").read_text() == "two\n"
    assert (tmp_path / "web.log.old").read_text() == "one\n"


def test_console_log_prints_lines_under_the_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the process and of its restart; the last lines are printed before it counts as stopped."""
    console = Console(width=len("rebuilder"))
    program = Program(
        name="web", command=["sh", "-c", "echo $$; echo ä >&2"], cwd=tmp_path, environment=os.environ, stop_timeout_s=30
    )
    log = ConsoleLog(console, "web", None)
    with SupervisedProcess(program, tmp_path, log, console.say) as process:
        process.child.wait()
        first = process.child.pid
        log.close()
        process.start()
        process.child.wait()
    console.print_block("two\nlines")
    lines = capsys.readouterr().out.splitlines()
    assert [line[9:] for line in lines[:4]] == [
        f"web       | {first}",
        "web       | ä",
        f"web       | {process.child.pid}",
        "web       | ä",
    ]
    assert lines[4:] == ["", "two", "lines", ""]
