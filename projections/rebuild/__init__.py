"""Builds a new view from the log and makes it the live one."""
