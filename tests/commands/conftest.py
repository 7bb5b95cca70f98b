"""Fixtures for tests of the write side."""

from tests.support.fixtures import engine, other_engine, sql

__all__ = ["engine", "other_engine", "sql"]
