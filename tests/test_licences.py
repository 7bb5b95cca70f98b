"""docs/licences.md is up to date, every licence is accepted, and the product needs no package of the tests."""

from tests.support.licences import PAGE, at_run_time, licence_of, lines, locked

# Permissive licences, and copyleft that covers only the package's own files. Any other licence needs a decision.
ACCEPTED = ("MIT", "BSD", "Apache", "PSF", "MPL-2.0", "LGPL-3.0", "ISC", "Zlib", "Unlicense")


def test_licences_page_is_up_to_date() -> None:
    assert PAGE.read_text().splitlines() == list(lines()), "run: python -m tests.support.licences"


def test_every_package_has_an_accepted_licence() -> None:
    unknown = {name: licence_of(name) for name in locked() if not licence_of(name).startswith(ACCEPTED)}
    assert not unknown


def test_product_needs_no_package_of_the_tests() -> None:
    needed = at_run_time()
    assert {"litestar", "redis", "cryptography", "httpcore"} <= needed
    assert not {"pytest", "schemathesis", "werkzeug", "requests", "hypothesis", "mypy"} & needed
