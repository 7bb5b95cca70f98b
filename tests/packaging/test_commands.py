"""The processes are the same wherever they are named: code, Procfile and documents."""

from honcho.environ import parse_procfile

from cli.dev.processes import PROCESSES, ROOT

COMMANDS = [f"follows {name}" for name in PROCESSES]


def test_procfile_has_the_processes_of_follows_up() -> None:
    assert list(parse_procfile((ROOT / "Procfile").read_text()).processes.values()) == COMMANDS


def test_operate_md_names_the_same_commands() -> None:
    block = (ROOT / "docs" / "operate.md").read_text().partition("## Processes")[2].split("```")[1]
    named = [line for line in block.splitlines() if line.startswith("follows ")]
    assert [" ".join(line.split()[:2]) for line in named] == ["follows migrate", *COMMANDS]
