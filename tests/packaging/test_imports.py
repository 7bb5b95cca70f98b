"""What only a rebuild needs is not in the memory of processes that do none."""

import subprocess
import sys
from pathlib import Path

import psutil

from cli.dev.processes import ROOT
from tests.support.servers import running_service

MODULES = "api.app, workers.__main__, workers.rebuild_jobs, cli.main, cli.rebuild, projections.rebuild.filler"


def test_no_process_imports_numpy_at_its_start() -> None:
    """A module that imports it is itself imported where a build begins."""
    script = f"import sys, {MODULES}; sys.exit(' '.join({{'numpy', 'anycrc'}} & {{*sys.modules}}) or None)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_running_processes_have_not_loaded_it(
    database_url: str, redis_url: str, queue_url: str, service_folder: Path
) -> None:
    """Although the worker has built the view of the empty log."""
    with running_service(database_url, redis_url, queue_url, service_folder) as service:
        for name, child in service.processes.items():
            family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
            maps = "".join(Path(f"/proc/{process.pid}/maps").read_text() for process in family)
            assert "msgspec" in maps and not any(lib in maps for lib in ("numpy", "anycrc")), name
