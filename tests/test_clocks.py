"""The table in docs/clocks.md lists every line of the product that reads a wall clock, or lets a server keep time."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "clocks.md"
PACKAGES = ("commands", "projections", "queries", "workers", "api", "cli")
READS = re.compile(
    r"""\btime\.time\b | \btime_ns\b | \bdatetime\.(?:now|utcnow|today)\b | \b(?:localtime|gmtime)\b   # Python
    | \bclock_timestamp\b | \bnow\(\) | \b(?:statement|transaction)_timestamp\b | \bCURRENT_TIME      # Postgres
    | \bhead(?:\(engine\)\))?\.now\b                                   # Postgres' time, as the log's head has it
    | ['"](?:P?EX|PX|P?EXPIRE(?:AT)?|P?SETEX|EXAT|PXAT)['"] | redis\.call\('TIME'\) | _expires\s*=    # Redis""",
    re.VERBOSE,
)


def in_code() -> Counter[str]:
    """Return file -> how many of its lines read a wall clock. Migrations only make columns that others list."""
    found: Counter[str] = Counter()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in (".py", ".lua", ".sql") and "migrations" not in path.parts:
                lines = sum(bool(READS.search(line)) for line in path.read_text().splitlines())
                found[path.relative_to(ROOT).as_posix()] += lines
    return +found


def in_table() -> Counter[str]:
    """Return file -> number of lines, by the first two columns of the table; files that are gone do not count."""
    rows = re.findall(r"^\| `([a-z_/]+\.(?:py|lua|sql))` \| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    return Counter({file: int(lines) for file, lines in rows if (ROOT / file).exists()})


def test_every_read_of_a_wall_clock_is_in_the_table() -> None:
    """A new one needs a row that says what a step of two hours does to it."""
    assert in_code() == in_table()


def test_scripts_of_the_views_read_no_clock() -> None:
    """What is frozen, leased or fenced must not depend on the clock of a server."""
    scripts = sorted((ROOT / "projections").rglob("*.lua"))
    assert len(scripts) > 8 and not [path for path in scripts if "TIME" in path.read_text()]


def test_leases_read_no_clock() -> None:
    """Neither that of Postgres nor a time that was written down."""
    text = (ROOT / "commands/db/sql/leases.sql").read_text() + (ROOT / "commands/coordination/leases.py").read_text()
    assert not re.search(r"timestamp|interval|now\(\)|expires_at", text)
