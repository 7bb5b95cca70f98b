"""HAProxy and nginx with the files of deploy/, in front of two web processes of the tests."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from cli.dev.processes import ROOT
from tests.support.breakable_servers import wait_until
from tests.support.pgbouncer import answers
from tests.support.servers import STOP_TIMEOUT_S, free_port

# What is replaced of each file: the addresses of the frontend and of the web processes.
LISTENS: Final = {"haproxy": "bind :8080", "nginx": "listen 8080"}
WEB: Final = ("127.0.0.1:8001", "127.0.0.1:8002")
FILES: Final = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}
# nginx makes folders for temporary files, and an ordinary user may write to the test's own folder alone.
TEMPORARY: Final = " ".join(
    f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


class RunningProxy(NamedTuple):
    """A proxy that runs; its address is host:port."""

    address: str
    process: subprocess.Popen[bytes]


@contextmanager
def running_proxy(program: str, folder: Path, web: Sequence[str]) -> Iterator[RunningProxy]:
    """Run ``program`` in front of two addresses with its file of deploy/."""
    name = Path(program).name
    address = f"127.0.0.1:{free_port()}"
    settings = folder / FILES[name]
    listen = LISTENS[name]
    replaced = {listen: f"{listen.partition(' ')[0]} {address}", **dict(zip(WEB, web, strict=True))}
    if name == "nginx":
        replaced["http {"] = f"http {{ {TEMPORARY}"
    settings.write_text(_replaced((ROOT / "deploy" / FILES[name]).read_text(), replaced))
    options = {
        "haproxy": ["-db", "-f"],
        "nginx": ["-p", str(folder), "-e", "stderr", "-g", "daemon off; pid nginx.pid;", "-c"],
    }
    with (folder / f"{name}.log").open("wb") as output:
        process = subprocess.Popen([program, *options[name], str(settings)], stdout=output, stderr=output, cwd=folder)
    try:
        wait_until(lambda: answers(process, int(address.rpartition(":")[2])))
        yield RunningProxy(address, process)
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
        print(*(folder / f"{name}.log").read_text().splitlines()[-20:], sep="\n")


def _replaced(text: str, replaced: Mapping[str, str]) -> str:
    for old, new in replaced.items():
        assert text.count(old) == 1, f"the file has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    return text
