"""`make bench-large`, from end to end over a small log, with real servers."""

from pathlib import Path

import msgspec
from click.testing import CliRunner

from bench.large import main


def test_large_log_is_appended_rebuilt_and_verified(tmp_path: Path) -> None:
    """Each step has its figures, and the memory of the filling process is compared with its aim."""
    done = CliRunner().invoke(main, ["--follows", "3000", "--results", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = msgspec.json.decode((tmp_path / "large.json").read_bytes())
    assert found["events"] > found["follows"] > 1_000
    rates = ("appended_per_s", "filled_per_s", "rebuild_s", "rebuild_cpu_s", "verify_s", "verified_per_cpu_s")
    assert all(found[name] > 0 for name in rates)
    assert found["filler_before_mb"] <= found["filler_peak_mb"] < 150
    assert found["filler_peak_aim"] == "<= 150 MB: met"
    assert found["valkey_mb"] > 1 and found["machine"]["cpus"]
    assert "verify_s" in done.output
