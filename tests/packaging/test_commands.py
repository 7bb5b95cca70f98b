"""The processes are the same wherever they are named: code, Procfile and documents."""

import re
import tomllib

from honcho.environ import parse_procfile

from cli.dev.processes import PROCESSES, ROOT
from commands.settings import NAMES, SECRETS

COMMANDS = [f"follows {name}" for name in PROCESSES]


def test_procfile_has_the_processes_of_follows_up() -> None:
    assert list(parse_procfile((ROOT / "Procfile").read_text()).processes.values()) == COMMANDS


def test_operate_md_names_the_same_commands() -> None:
    block = (ROOT / "docs" / "operate.md").read_text().partition("## Processes")[2].split("```")[1]
    named = [line for line in block.splitlines() if line.startswith("follows ")]
    assert [" ".join(line.split()[:2]) for line in named] == ["follows migrate", *COMMANDS]


def test_units_image_and_manifests_run_the_same_commands() -> None:
    deploy = ROOT / "deploy"
    units = {path.stem: path.read_text() for path in (deploy / "systemd").glob("*.service")}
    started = {name.rstrip("@"): _words(r"^ExecStart=/opt/follows/bin/(.*)$", text) for name, text in units.items()}
    assert {name: words[0][:2] for name, words in started.items()} == {
        f"follows-{name}": ["follows", name] for name in PROCESSES
    }
    compose = _words(r"^    command: (follows .*)$", (deploy / "compose.yaml").read_text())
    assert [command[:2] for command in compose] == [["follows", name] for name in ("migrate", *PROCESSES)]
    pods = _words(r"^ +command: \[(.*)\]$", (deploy / "kubernetes.yaml").read_text().replace(",", ""))
    assert pods == [["follows", name] for name in ("migrate", *PROCESSES)]
    assert '\nCMD ["follows", "web"]\n' in (deploy / "Containerfile").read_text()


def test_units_and_manifests_name_settings_that_exist() -> None:
    texts = [path.read_text() for path in (ROOT / "deploy").rglob("*") if path.is_file() and path.suffix != ".lock"]
    named = set(re.findall(r"\b(FOLLOWS_[A-Z_]+|[A-Z]+_URL(?:_FILE)?)\b", "\n".join(texts)))
    assert len(named) > 5 and named <= {*NAMES, *SECRETS, *(f"{name}_FILE" for name in SECRETS)}


def _words(pattern: str, text: str) -> list[list[str]]:
    return [found.split() for found in re.findall(pattern, text, re.MULTILINE)]


def test_lock_of_the_image_has_what_traces_need() -> None:
    """The image has no pip, so nothing can be added there."""
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "deploy" / "requirements.lock").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [re.split("[><=]", one)[0] for one in project["optional-dependencies"]["traces"]]
    assert needed and set(needed) <= locked
