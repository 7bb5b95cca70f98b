"""The event log in Postgres: append and read it, fold it into what views must hold, export it."""
