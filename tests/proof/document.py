"""Every call of the OpenAPI document, of both dialects, tried by schemathesis with all of its checks on.

A status that is not documented, an answer that does not fit its schema, a 5xx, a bad value that is accepted and a good
one that is refused are failures. The run says its seed, and the seed repeats it.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.servers import Service

HERE = Path(__file__).parent
PEOPLE = ("ann", "bob", "cem", "dan")
# The caller of the run, who may do everything: a service, and a user with both scopes.
CALLER, SCOPES = "ann", ("user_read", "user_follows_edit")
RUN_LIMIT_S = 3600.0
_SUMMARY = re.compile(r"^Test cases:\s+(\d+) generated", re.MULTILINE)
_CALLS = re.compile(r"^\s+Tested: (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Tried:
    """What a run was: whether all was well, how many calls and requests there were, and all that was said."""

    good: bool
    calls: int
    requests: int
    said: str


def prepare(service: Service) -> None:
    """Register those whom the run speaks of."""
    with service.client("platform", "service") as platform:
        for person in PEOPLE:
            platform.put(f"/v1/users/{person}", json={}).raise_for_status()


def try_document(service: Service, folder: Path, *, seed: int, examples: int) -> Tried:
    """Try every documented call of ``service`` with up to ``examples`` made-up requests of each kind.

    What schemathesis keeps of failures goes to ``folder``.
    """
    token = service.token(CALLER, "service", SCOPES)
    program = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "document.toml")]
    arguments = ["--url", service.base_url, "--header", f"Authorization: Bearer {token}", "--checks", "all"]
    amounts = ["--seed", str(seed), "--max-examples", str(examples), "--no-color"]
    done = subprocess.run(
        [*program, "run", f"{service.base_url}/docs/openapi.json", *arguments, *amounts],
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "document_hooks.py")},
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
        check=False,
    )
    said = (done.stdout + done.stderr).replace(token, "TOKEN")
    return Tried(done.returncode == 0, _number(_CALLS, said), _number(_SUMMARY, said), said)


def _number(pattern: re.Pattern[str], said: str) -> int:
    found = pattern.search(said)
    return int(found[1]) if found else 0
