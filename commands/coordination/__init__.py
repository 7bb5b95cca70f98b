"""State that workers and tools share in Postgres: leases, the register of views, parked pairs, the pause."""
