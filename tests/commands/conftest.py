"""What tests of the write side open."""

from tests.opened import engine, other_engine, sql

__all__ = ["engine", "other_engine", "sql"]
