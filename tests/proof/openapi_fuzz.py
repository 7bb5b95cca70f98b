"""Every call of the OpenAPI document, in both dialects, fuzzed by schemathesis with all of its checks.

Failures are a status that is not documented, an answer that does not fit its schema, a 5xx, a bad value that is
accepted and a good one that is refused. The same seed makes the same requests.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import Service

HERE = Path(__file__).parent
PEOPLE = ("ann", "bob", "cem", "dan")
# The caller of the run may do everything: it is a service and a user with both scopes.
CALLER, SCOPES = "ann", ("user_read", "user_follows_edit")
RUN_TIMEOUT_S = 3600.0
_SUMMARY = re.compile(r"^Test cases:\s+(\d+) generated", re.MULTILINE)
_CALLS = re.compile(r"^\s+Tested: (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class FuzzRun:
    """A finished run: whether it passed, the number of calls and requests, and the program's output."""

    passed: bool
    calls: int
    requests: int
    output: str


def prepare(service: Service) -> None:
    """Register the users that the requests name."""
    with service.client("platform", "service") as platform:
        for person in PEOPLE:
            platform.put(f"/v1/users/{person}", json={}).raise_for_status()


def try_document(service: Service, folder: Path, *, seed: int, examples: int) -> FuzzRun:
    """Send up to ``examples`` generated requests of each kind to every documented call.

    Files of schemathesis about failures go to ``folder``.
    """
    token = service.token(CALLER, "service", SCOPES)
    program = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "openapi_fuzz.toml")]
    arguments = ["--url", service.base_url, "--header", f"Authorization: Bearer {token}", "--checks", "all"]
    amounts = ["--seed", str(seed), "--max-examples", str(examples), "--no-color"]
    done = subprocess.run(
        [*program, "run", f"{service.base_url}/docs/openapi.json", *arguments, *amounts],
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "openapi_fuzz_hooks.py")},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    output = (done.stdout + done.stderr).replace(token, "TOKEN")
    return FuzzRun(done.returncode == 0, _number(_CALLS, output), _number(_SUMMARY, output), output)


def _number(pattern: re.Pattern[str], output: str) -> int:
    found = pattern.search(output)
    return int(found[1]) if found else 0
