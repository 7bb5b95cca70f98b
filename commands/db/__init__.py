"""The database itself: engine, tables, migrations, SQL functions."""
