"""What tests of the workers open."""

from tests.opened import engine, fragile, other_engine, sql, store

__all__ = ["engine", "fragile", "other_engine", "sql", "store"]
