"""The page of licences is current, every licence is known, and what only tests need is not needed at run time."""

from tests.licences import PAGE, at_run_time, licence_of, lines, locked

# Copyleft that reaches no further than the package's own files; anything stronger has to be decided on.
ACCEPTED = ("MIT", "BSD", "Apache", "PSF", "MPL-2.0", "LGPL-3.0", "ISC", "Unlicense")


def test_the_page_is_current() -> None:
    assert PAGE.read_text().splitlines() == list(lines()), "python -m tests.licences writes it"


def test_every_licence_is_known_and_accepted() -> None:
    unknown = {name: licence_of(name) for name in locked() if not licence_of(name).startswith(ACCEPTED)}
    assert not unknown


def test_what_tests_need_is_not_needed_at_run_time() -> None:
    needed = at_run_time()
    assert {"litestar", "redis", "cryptography", "httpcore"} <= needed
    assert not {"pytest", "schemathesis", "werkzeug", "requests", "hypothesis", "mypy"} & needed
