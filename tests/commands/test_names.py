"""Which texts are ids, for Python and for the database; and what stands for users who have none any more."""

import re
from typing import Any

import psycopg
import pytest

from commands.users import ID_PATTERN, is_login, is_user_id, placeholder

IDS = ["auth0|5f7c", "001234.ab.56", "ann@example.com", "did:plc:ewvi7nxz", "a+b=c~d", "x" * 128, "_", "Me", "me.", "-"]
NO_IDS = ["", "me", "x" * 129, ".a", "@a", "~erased-5", "|", "a b", "a/b", "a\n", "a%", "ä", "a,b", 'a"', "a;b", "a{b}"]


@pytest.mark.parametrize("id_", IDS)
def test_id_is_one(id_: str) -> None:
    assert is_user_id(id_) and re.search(ID_PATTERN, id_)


@pytest.mark.parametrize("id_", NO_IDS)
def test_text_is_no_id(id_: str) -> None:
    assert not is_user_id(id_)


@pytest.mark.parametrize("ids", [IDS, NO_IDS])
def test_database_takes_the_same_ids(sql: psycopg.Connection[Any], ids: list[str]) -> None:
    for id_ in ids:
        with sql.transaction(force_rollback=True):
            try:
                sql.execute("INSERT INTO users (id, login, display_name) VALUES (%s, 'x', '')", [id_])
            except psycopg.errors.CheckViolation:
                taken = False
            else:
                taken = True
        assert taken == is_user_id(id_), id_


def test_placeholder_is_neither_id_nor_login() -> None:
    assert not is_user_id(placeholder(5)) and not is_login(placeholder(5))
