"""`follows import`: files of every format, bad lines, exit codes, and constant memory."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from cli.dev.processes import ROOT
from cli.import_run import BAD_SHOWN_MAX
from cli.imports import ImportSettings, imports
from commands.users import ID_IN_WORDS

Sql = psycopg.Connection[Any]
Run = Callable[..., Result]
BOTH = "follower,followed\n"


@pytest.fixture
def sql(database_url: str) -> Iterator[Sql]:
    """A connection to the test's database."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `follows import` on the test's database, without a queue."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    for name in ("REDIS_URL", "QUEUE_URL"):
        monkeypatch.delenv(name, raising=False)

    def call(
        *arguments: str | Path, stdin: str | bytes | None = None, settings: ImportSettings | None = None
    ) -> Result:
        return CliRunner().invoke(imports, [str(word) for word in arguments], input=stdin, obj=settings)

    return call


def follows_of(sql: Sql) -> list[tuple[str, str]]:
    """Return (follower, followed) of all UserFollowed events, in the order of the log."""
    return sql.execute(
        """SELECT f.id, g.id FROM events e JOIN users f ON f.number = e.subject JOIN users g ON g.number = e.object
        WHERE e.type = 'UserFollowed' ORDER BY e.position"""
    ).fetchall()


def datas(sql: Sql) -> list[Any]:
    """Return the data of all follow events, in the order of the log."""
    return [row[0] for row in sql.execute("SELECT data FROM events WHERE subject <> object ORDER BY position")]


def counts(result: Result) -> str:
    """Return the summary's counts."""
    return result.stdout.rpartition("): ")[2].strip()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "follower,followed\na,b\nb,c\n"),
        ("a.csv", "\ufefffollowed, Follower\r\nb,a\r\n\r\n c , b\r\n"),
        ("a.csv", '"follower","followed"\n"a","b"\n"b","c"'),
        ("a.ndjson", '{"follower":"a","followed":"b"}\n\n{"followed":"c","follower":"b"}'),
        ("a.jsonl", '{"follower":"a","followed":"b"}\n{"followed":"c","follower":"b","created_at":null}\n'),
        ("anything", '\ufeff {"follower":"a","followed":"b"}\n{"followed":"c","follower":"b"}\n'),
        ("anything", "follower,followed\na,b\nb,c\n"),
    ],
)
def test_every_format_is_read(run: Run, sql: Sql, tmp_path: Path, name: str, text: str, packed: bool) -> None:
    """CSV and NDJSON, told by name or first byte, plain or .gz, from a file or standard input."""
    data = gzip.compress(text.encode()) if packed else text.encode()
    file = tmp_path / (f"{name}.gz" if packed else name)
    file.write_bytes(data)
    assert counts(run("follows", file, "--create-users")) == "2 added, 0 already there, 0 bad"
    assert follows_of(sql) == [("a", "b"), ("b", "c")]
    if not name.endswith(("ndjson", "jsonl")) or text[0] == "{":
        assert counts(run("follows", "-", stdin=data)) == "0 added, 2 already there, 0 bad"


def test_csv_times_and_notifications_are_read(run: Run, sql: Sql) -> None:
    """Times are RFC 3339 with any fraction and offset, or microseconds; an empty cell is left to the log."""
    lines = (
        "follower,followed,created_at,notifications\n"
        "a,b,2020-01-01T00:00:00Z,true\n"
        "a,c,2020-01-01t01:00:00.5+01:00,1\n"
        "a,d,1577836800000001,FALSE\n"
        "a,e,,0\n"
        "a,f,2020-01-01 00:00:00.123456789z,\n"
    )
    assert counts(run("follows", "-", "--create-users", stdin=lines)) == "5 added, 0 already there, 0 bad"
    start = 1_577_836_800_000_000
    assert datas(sql) == [
        {"created_at": start, "notifications": True},
        {"created_at": start + 500_000, "notifications": True},
        {"created_at": start + 1},
        None,
        {"created_at": start + 123_457},
    ]


def test_ndjson_numbers_and_booleans_are_read(run: Run, sql: Sql) -> None:
    """Ids may be numbers; flags and times may have their JSON types."""
    lines = [
        {"follower": 1, "followed": 2, "created_at": 1577836800000000, "notifications": True},
        {"follower": 2, "followed": "1", "created_at": "2020-01-01T00:00:00Z", "notifications": 0},
    ]
    result = run("follows", "-", "--create-users", stdin="\n".join(map(json.dumps, lines)))
    assert counts(result) == "2 added, 0 already there, 0 bad"
    assert follows_of(sql) == [("1", "2"), ("2", "1")]
    assert datas(sql) == [{"created_at": 1577836800000000, "notifications": True}, {"created_at": 1577836800000000}]


COLUMNS = "follower,followed,created_at,notifications\n"
BAD_CSV = {
    "a,b,yesterday,": "created_at 'yesterday' is neither RFC 3339 with an offset nor microseconds",
    "a,b,2020-01-01T00:00:00,": "created_at '2020-01-01T00:00:00' is neither RFC 3339 with an offset nor microseconds",
    "a,b,2020-01-01,": "created_at '2020-01-01' is neither RFC 3339 with an offset nor microseconds",
    "a,b,2020-13-01T00:00:00Z,": "created_at '2020-13-01T00:00:00Z' is not a time",
    "a,b,1577836800,": "created_at as a number must be microseconds since 1970",
    "a,b,-5,": "created_at as a number must be microseconds since 1970",
    "a,b,1969-12-31T23:59:59Z,": "created_at '1969-12-31T23:59:59Z' is before 1970",
    "a,b,9999-01-01T00:00:00Z,": "created_at '9999-01-01T00:00:00Z' is in the future",
    "a,b,999999999999999999,": "created_at '999999999999999999' is in the future",
    "a,b,,maybe": "notifications 'maybe' is neither true nor false",
    "a,b": "4 columns expected, 2 found",
    "a,b,,,": "4 columns expected, 5 found",
    ",,,": f"'' is not a user id: {ID_IN_WORDS}",
    "a,a,,": "user 'a' cannot follow himself",
    "a\x1b[31m,b,,": f"'a\\x1b[31m' is not a user id: {ID_IN_WORDS}",
    '"a,b,,': "a quote is not closed",
    '"a"x,b,,': "',' expected after '\"'",
    f"{'a' * 200},b,,": f"'{'a' * 128}...' is not a user id: {ID_IN_WORDS}",
    "a," + "b" * (1 << 20): "longer than 1 MiB",
    '"' + "a" * 140_000 + '",b,,': f"'{'a' * 128}...' is not a user id: {ID_IN_WORDS}",
    '"a","b"c"d",,': "',' expected after '\"'",
}
BAD_JSON = {
    '{"follower":"a"}': "Object missing required field `followed`",
    '{"follower":"a","followed":null}': "followed: Expected `int | str`, got `null`",
    '{"follower":"a","followed":"b","created":1}': "Object contains unknown field `created`",
    '{"follower":"a","followed":"b","created_at":1.5}': "created_at: Expected `int | str | null`, got `float`",
    '{"follower":"a","followed":"b","notifications":2}': "notifications '2' is neither true nor false",
    '{"follower":"a","followed":"b"': "Input data was truncated",
    "[1]": "Expected `object`, got `array`",
    "nonsense": "JSON is malformed: invalid character (byte 4)",
    '{"follower":"a","followed":"' + "b" * (1 << 20) + '"}': "longer than 1 MiB",
}


def test_bad_csv_line_is_reported_and_the_others_are_imported(run: Run, sql: Sql) -> None:
    """The report has the line's number and the reason."""
    for number, (line, reason) in enumerate(BAD_CSV.items()):
        result = run("follows", "-", "--create-users", stdin=f"{COLUMNS}a,b{number},,\n{line}\nb,a{number},,\n")
        assert result.stderr == f"line 3: {reason}\n"
        assert (counts(result), result.exit_code) == ("2 added, 0 already there, 1 bad", 0)
    assert len(follows_of(sql)) == 2 * len(BAD_CSV)


def test_bad_ndjson_line_is_reported_and_the_others_are_imported(run: Run, sql: Sql) -> None:
    for number, (line, reason) in enumerate(BAD_JSON.items()):
        good = [json.dumps({"follower": f"u{number}", "followed": followed}) for followed in "ab"]
        result = run("follows", "-", "--create-users", stdin=f"{good[0]}\n{line}\n{good[1]}")
        assert result.stderr == f"line 2: {reason}\n"
        assert (counts(result), result.exit_code) == ("2 added, 0 already there, 1 bad", 0)
    assert len(follows_of(sql)) == 2 * len(BAD_JSON)


@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_line_that_is_not_utf_8_is_bad_and_the_others_are_imported(run: Run, tmp_path: Path, kind: str) -> None:
    good, bad = {
        "csv": (b"a,b\n", b"\xff,b\n"),
        "ndjson": (b'{"follower":"a","followed":"b"}\n', b'{"follower":"\xff","followed":"b"}\n'),
    }[kind]
    file = tmp_path / f"x.{kind}"
    file.write_bytes((BOTH.encode() if kind == "csv" else b"") + bad + good)
    result = run("follows", file, "--create-users")
    number, reason = (2, f"'\\udcff' is not a user id: {ID_IN_WORDS}") if kind == "csv" else (1, "not UTF-8")
    assert result.stderr == f"line {number}: {reason}\n"
    assert counts(result) == "1 added, 0 already there, 1 bad"


def test_unknown_user_is_an_error_without_create_users(run: Run, sql: Sql) -> None:
    """When no line is usable, the exit code is 1."""
    refused = run("follows", "-", stdin=BOTH + "a,b\n")
    assert refused.exit_code == 1
    assert refused.stderr == "line 2: unknown user 'a'\nError: no line of standard input could be used\n"
    assert counts(refused) == "0 added, 0 already there, 1 bad"
    assert run("follows", "-", "--create-users", stdin=BOTH + "a,b\n").exit_code == 0
    assert follows_of(sql) == [("a", "b")]


def test_strict_stops_at_the_first_bad_line(run: Run, sql: Sql) -> None:
    """Lines before it stay, and no line after it is imported, whether parsing or the look-up of users finds it."""
    result = run("follows", "-", "--create-users", "--strict", stdin=BOTH + "a,b\nb,b\nb,c\nworse\nc,d\n")
    assert result.exit_code == 1
    assert result.stderr == (
        "line 3: user 'b' cannot follow himself\n"
        "Error: stopped at line 3 because of --strict; what was added before it stays\n"
    )
    result = run("follows", "-", "--create-users", "--strict", stdin=BOTH + "a,b\na,c\nworse\nb,b\nc,d\n")
    assert "line 4: 2 columns expected, 1 found\n" in result.stderr
    assert counts(result) == "1 added, 1 already there, 1 bad"
    assert follows_of(sql) == [("a", "b"), ("a", "c")]


def test_strict_stops_before_the_batch_that_was_read_meanwhile(run: Run, sql: Sql) -> None:
    lines = "a,b\nb,a\na,c\nc,c\na,d\na,e\na,f\n"
    settings = ImportSettings(batch_size=2)
    result = run("follows", "-", "--create-users", "--strict", stdin=BOTH + lines, settings=settings)
    assert counts(result) == "3 added, 0 already there, 1 bad"
    assert follows_of(sql) == [("a", "b"), ("b", "a"), ("a", "c")]


def test_further_bad_lines_are_counted_over_all_batches(run: Run) -> None:
    result = run(
        "follows", "-", "--create-users", stdin=BOTH + "a,b\n" + "bad\n" * 50, settings=ImportSettings(batch_size=7)
    )
    assert len(result.stderr.splitlines()) == BAD_SHOWN_MAX + 1
    assert result.stderr.endswith("further bad lines are counted, not shown\n")
    assert counts(result) == "1 added, 0 already there, 50 bad"


HEADERS = {
    "": "the first line must name the columns, and does not name follower, followed",
    "1,2\n": "the first line must name the columns, and does not name follower, followed",
    "follower;followed\na;b\n": "the first line must name the columns, and does not name follower, followed",
    "follower,followed,since\n": "unknown column 'since'; known are: follower, followed, created_at, notifications",
    "follower,followed,followed\n": "the first line names a column twice",
}


def test_csv_without_column_names_is_refused(run: Run) -> None:
    for text, reason in HEADERS.items():
        result = run("follows", "-", stdin=text)
        assert (result.exit_code, result.stderr) == (1, f"Error: {reason}\n")


def test_empty_file_is_imported_without_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").touch()
    for result in (run("follows", "-", stdin=BOTH), run("follows", tmp_path / "a.ndjson")):
        assert (result.exit_code, counts(result)) == (0, "0 added, 0 already there, 0 bad")


def test_damaged_gz_is_imported_as_far_as_it_is_readable(run: Run, sql: Sql, tmp_path: Path) -> None:
    """An error says that the file is damaged."""
    whole = gzip.compress((BOTH + "".join(f"a{number},b\n" for number in range(50_000))).encode())
    (tmp_path / "a.csv.gz").write_bytes(whole[: len(whole) // 2])
    result = run("follows", tmp_path / "a.csv.gz", "--create-users")
    assert result.exit_code == 1
    assert "is a damaged .gz file" in result.stderr
    found = len(follows_of(sql))
    assert 10_000 < found < 50_000
    assert counts(result) == f"{found:,} added, 0 already there, 0 bad"


def test_users_are_added_and_changed(run: Run, sql: Sql) -> None:
    """An empty cell leaves a field unchanged, null clears it, and a second import changes nothing."""
    csv = 'id,username,bio,is_available,views\na,Anna,"two\nlines, ""quoted""",true,12\nb,,,,\n'
    assert counts(run("users", "-", stdin=csv)) == "2 added, 0 changed, 0 the same, 0 bad"
    assert counts(run("users", "-", stdin=csv)) == "0 added, 0 changed, 2 the same, 0 bad"
    json_lines = '{"id":"a","bio":null}\n{"id":7,"mature":null}\n{"id":"b"}\n'
    assert counts(run("users", "-", stdin=json_lines)) == "1 added, 1 changed, 1 the same, 0 bad"
    assert sql.execute("SELECT id, login, display_name, profile FROM users ORDER BY number").fetchall() == [
        ("a", "anna", "Anna", {"bio": None, "is_available": True, "views": 12}),
        ("b", "b", "b", {}),
        ("7", "7", "7", {"mature": None}),
    ]
    assert sql.execute("SELECT count(*) FROM events").fetchone() == (4,)


BAD_USERS = {
    "a,,,": "5 columns expected, 4 found",
    ",x,,,": "id is missing",
    "a b,,,,": f"'a b' is not a user id: {ID_IN_WORDS}",
    "a,a b,,,": "username: Expected `str` matching regex",
    "a,,yes,,": "is_available: Expected `bool`, got `str`",
    "a,,,-1,": "views: Expected `int` >= 0",
    "a,,,1.5,": "views: Expected `int`, got `str`",
    'a,,,,"x': "a quote is not closed",
    "a,,,,x\0y": "bio is not valid text",
    "a,HOLDER0,,,": "the username 'HOLDER0' is taken",
}


def test_bad_user_line_is_reported_and_the_others_are_imported(run: Run) -> None:
    for number, (line, reason) in enumerate(BAD_USERS.items()):
        lines = f"id,username,is_available,views,bio\nu{number},holder{number},,,\n{line}\nv{number},,,,\n"
        result = run("users", "-", stdin=lines)
        assert result.stderr.startswith(f"line 3: {reason}")
        assert len(result.stderr.splitlines()) == 1
        assert counts(result) == "2 added, 0 changed, 0 the same, 1 bad"


def test_bad_ndjson_user_is_reported(run: Run) -> None:
    """NDJSON values must have the right type."""
    lines = '{"id":true}\n{"bio":"x"}\n{"id":"a","views":"12"}\n{"id":"a","nope":1}\n5\n{"id":"a"}\n'
    result = run("users", "-", stdin=lines)
    assert result.stderr.splitlines() == [
        "line 1: id must be a string or a whole number",
        "line 2: id is missing",
        "line 3: views: Expected `int`, got `str`",
        "line 4: Object contains unknown field `nope`",
        "line 5: Expected `object`, got `int`",
    ]


def test_unclosed_quote_makes_one_line_bad(run: Run) -> None:
    """A quoted text may span lines, up to a limit."""
    lines = 'id,bio\na,"lost\n' + "".join(f"u{number},x\n" for number in range(3_000))
    result = run("users", "-", stdin=lines)
    assert result.stderr == "line 2: a quote is not closed\n"
    assert counts(result) == "3,000 added, 0 changed, 0 the same, 1 bad"


def test_import_enqueues_a_wake_up(run: Run, queue_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that is down changes nothing."""
    from redis import Redis

    from tests.support.queues import NAMES

    monkeypatch.setenv("QUEUE_URL", queue_url)
    run("follows", "-", "--create-users", stdin=BOTH + "a,b\n")
    with Redis.from_url(queue_url) as queue:
        assert queue.zcard(NAMES.queue()) == 1
    monkeypatch.setenv("QUEUE_URL", "redis://127.0.0.1:1")
    assert run("follows", "-", "--create-users", stdin=BOTH + "a,c\n").exit_code == 0


def test_wrong_settings_and_servers_are_one_line(database_url: str, tmp_path: Path) -> None:
    """The exit code is 1."""
    file = tmp_path / "a.csv"
    file.write_text(BOTH + "a,b\n")
    kept = {key: value for key, value in os.environ.items() if not key.endswith("_URL")}
    wrong = {
        "": "DATABASE_URL is not set",
        "mysql://x": "DATABASE_URL must begin with postgresql://",
        "postgresql://postgres@127.0.0.1:1/x": "PostgreSQL cannot be used: ",
        database_url.replace("/t", "/nosuch"): "PostgreSQL cannot be used: ",
        database_url.partition("/t")[0] + "/postgres?" + database_url.partition("?")[2]: "run `follows migrate`",
    }
    for url, words in wrong.items():
        found = subprocess.run(
            [sys.executable, "-m", "cli", "import", "follows", str(file), *(["--database-url", url] if url else [])],
            cwd=ROOT,
            env={**kept, "FOLLOWS_DATA": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert found.returncode == 1, url
        assert words in found.stderr, url
        assert len(found.stderr.splitlines()) == 1, found.stderr


MEASURE = """
import resource, sys
from cli.imports import ImportSettings, imports
try:
    imports(["follows", "-"])
except SystemExit:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_file(run: Run, database_url: str) -> None:
    """Fifteen times the lines, good and bad, take no more memory."""
    run("follows", "-", "--create-users", stdin=BOTH + "".join(f"a{number},b{number}\n" for number in range(1_000)))
    lines = "".join(f"a{number},b{number}\n" if number % 4 else f"a,bad,{number}\n" for number in range(1_000))

    def peak_kib(thousands: int) -> int:
        process = subprocess.Popen(
            [sys.executable, "-c", MEASURE],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": database_url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(BOTH)
        for _ in range(thousands):
            process.stdin.write(lines)
        process.stdin.close()
        summary, peak = process.stdout.read().splitlines()
        process.stdout.close()
        assert process.wait() == 0
        assert f"{thousands * 750:,} already there, {thousands * 250:,} bad" in summary
        return int(peak)

    few, many = peak_kib(20), peak_kib(300)
    assert many - few < 10 * 1024, f"{few} KiB for 20,000 lines, {many} KiB for 300,000"


def test_progress_without_a_terminal_is_printed_as_lines(run: Run) -> None:
    """Count and rate."""
    settings = ImportSettings(batch_size=10, progress_every_s=0.0)
    result = run("follows", "-", "--create-users", stdin=BOTH + "a,b\n" * 30, settings=settings)
    first = result.stderr.splitlines()[0]
    assert first.startswith("Importing follows: 10 follows, ")
    assert "/s" in first
