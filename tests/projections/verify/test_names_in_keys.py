"""A key of a view is read back as the look-up that it is, whatever the id has."""

import pytest

from projections.keys import View
from projections.verify.orphans import cell_of

VIEW = View(1, 64)


@pytest.mark.parametrize("id_", ["auth0|5f7c", "ann@example.com", "did:plc:abc", "a:", "_", "x" * 128])
def test_look_up_of_an_id_is_one(id_: str) -> None:
    found = cell_of(VIEW, VIEW.id(id_))
    assert (found.what, found.name, found.key) == ("id", id_, VIEW.id(id_))


@pytest.mark.parametrize("key", [VIEW.id("me"), VIEW.id("~erased-5"), VIEW.login("auth0|5f7c"), VIEW.login("x" * 65)])
def test_look_up_of_what_no_user_can_have_is_a_stray_key(key: str) -> None:
    assert cell_of(VIEW, key).what == "key"
