"""The whole OpenAPI document tried on real processes; the long form is in `make proof`."""

from pathlib import Path

from tests.proof.document import prepare, try_document
from tests.servers import Service

CALLS = 23
SEED = 1
EXAMPLES = 5


def test_every_documented_call_keeps_its_word(system: Service, tmp_path: Path) -> None:
    prepare(system)
    tried = try_document(system, tmp_path, seed=SEED, examples=EXAMPLES)
    assert tried.good, tried.said
    assert tried.calls == CALLS and tried.requests > CALLS * EXAMPLES
