"""The documents are true: their commands run on `make up`'s demo data, and what they name exists.

A ``console`` block holds commands, each after ``$ ``, with the output below it. In the output ``...`` stands for any
text, a time from 2026 on for any time, and a position for any position. White space does not count, since long answers
are wrapped. A ``sh`` block is not run: its ``follows`` commands and make targets must exist.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from cli.main import COMMANDS
from tests.support import reference
from tests.support.running_up import Up, up

ROOT: Final = Path(__file__).resolve().parents[2]
DOCUMENTS: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("README.md")])
# What the documents call the service and its data folder.
ADDRESS: Final = "http://127.0.0.1:8000"
FOLDER: Final = ".follows"
LIMIT_S: Final = 120
LINES: Final = {"README.md": 180, "ARCHITECTURE.md": 150, "docs/tour.md": 60}
# A document about one thing is a page.
DECISION_LINES: Final = 60

MARK: Final = "---- end of command ----"
TIME: Final = re.compile(r"20(?:2[6-9]|[3-9]\d)-\d\d-\d\dT\d\d:\d\d:\d\dZ")
POSITION: Final = re.compile(r"follow-position:\d+")


@dataclass
class Command:
    """A command of a document, the line it begins in, and the output that is written below it."""

    line: int
    text: str
    output: str


def blocks(text: str, language: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, lines) of the fenced blocks in ``language``."""
    found: list[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            if found is not None:
                yield number - len(found), found
            found = [] if line == f"```{language}" and found is None else None
        elif found is not None:
            found.append(line)


def commands(text: str) -> list[Command]:
    """Return the commands of a document's console blocks, in order."""
    found: list[Command] = []
    for first, lines in blocks(text, "console"):
        for number, line in enumerate(lines, first):
            if line.startswith("$ "):
                found.append(Command(number, line[2:], ""))
            else:
                found[-1].output += f"{line}\n"
    return found


def differs(expected: str, printed: str) -> bool:
    """Return whether ``printed`` is not what a document says, ``expected``."""
    written = "".join(expected.split())
    parts = [re.escape(part) for part in written.split("...")]
    pattern = TIME.sub(lambda _: TIME.pattern, ".*".join(parts).replace(r"\-", "-").replace(r"\:", ":"))
    pattern = POSITION.sub(lambda _: POSITION.pattern, pattern)
    return re.fullmatch(pattern, "".join(printed.split()), re.DOTALL) is None


def test_differs_notices_a_changed_value() -> None:
    written = '{"a": 1, ...,\n"at":"2026-11-22T00:10:06Z"} follow-position: 7'
    assert not differs(written, '{"a":1,"b":[2],"at":"2031-01-01T00:00:00Z"} follow-position: 99')
    assert differs(written, '{"a":2,"b":[2],"at":"2031-01-01T00:00:00Z"} follow-position: 99')
    assert differs('{"at":"2024-08-03T15:05:31Z"}', '{"at":"2024-08-03T15:05:32Z"}')
    assert differs("", "something")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`follows up` with its demo data, as a reader of the documents runs it."""
    with up(tmp_path_factory.mktemp("documents") / "data") as started:
        started.ready()
        yield started


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the commands that the documents use: ``follows`` and ``curl``."""
    folder = tmp_path_factory.mktemp("programs")
    for name, module in (("follows", "cli"), ("curl", "tests.support.curl")):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n')
        program.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    "path",
    [path for path in DOCUMENTS if commands(path.read_text())],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_commands_of_a_document_print_what_it_says(path: Path, running: Up, programs: Path) -> None:
    given = commands(path.read_text())
    lines = [f"{command.text}\nprintf '%s\\n' '{MARK}'" for command in given]
    script = "\n".join(lines).replace(ADDRESS, running.address).replace(FOLDER + "/", f"{running.folder}/")
    done = subprocess.run(
        ["sh"],
        input=script,
        cwd=ROOT,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "FOLLOWS_DATA": str(running.folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
    )
    printed = done.stdout.replace(running.address, ADDRESS).split(f"{MARK}\n")[: len(given)]
    wrong = [
        f"{path.relative_to(ROOT)}:{command.line} {command.text}\nprints\n{output}"
        for command, output in zip(given, printed, strict=True)
        if differs(command.output, output)
    ]
    assert not wrong, "\n\n".join(wrong)


def test_commands_that_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wrong = []
    for path in DOCUMENTS:
        text = path.read_text()
        shown = [line for language in ("sh", "console") for _, lines in blocks(text, language) for line in lines]
        shown += re.findall(r"`((?:follows|make) [a-z][^`]*)`", text)
        for line in shown:
            match line.removeprefix("$ ").split()[:2]:
                case ["follows", word] if re.fullmatch("[a-z-]+", word) and word not in COMMANDS:
                    wrong.append(f"{path.relative_to(ROOT)}: follows {word}")
                case ["make", word] if re.fullmatch("[a-z-]+", word) and word not in targets:
                    wrong.append(f"{path.relative_to(ROOT)}: make {word}")
    assert not wrong, wrong


def test_files_that_documents_name_exist() -> None:
    wrong = []
    for path in DOCUMENTS:
        text = path.read_text()
        named = set(re.findall(r"`([a-z_]+/[\w/.-]+\.(?:py|lua|sql|md|json|toml))`", text))
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in sorted(named) if not (ROOT / name).exists()]
        linked = set(re.findall(r"\]\(([^)#:]+)\)", text))
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in sorted(linked) if not (path.parent / name).exists()]
    assert not wrong, wrong


def test_documents_keep_to_their_lengths() -> None:
    limits = {ROOT / name: limit for name, limit in LINES.items()}
    limits |= dict.fromkeys((ROOT / "docs" / "decisions").glob("*.md"), DECISION_LINES)
    found = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in limits if path.exists()}
    assert {name: lines for name, lines in found.items() if lines > limits[ROOT / name]} == {}


def test_reference_pages_are_what_the_code_says(tmp_path: Path) -> None:
    """Written by a process of its own: other tests change the environment and the commands of this one."""
    subprocess.run([sys.executable, "-m", "tests.support.reference", tmp_path], cwd=ROOT, check=True, timeout=LIMIT_S)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    stale = [name for name, text in written.items() if (reference.FOLDER / name).read_text() != text]
    assert len(written) == 3 and not stale, f"{stale}: `python -m tests.support.reference` writes them"
