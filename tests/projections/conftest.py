"""What tests of the projections open."""

from tests.opened import engine, other_engine, sql, store

__all__ = ["engine", "other_engine", "sql", "store"]
