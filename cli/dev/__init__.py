"""The `up` command and what only it needs: embedded servers, a supervisor, demo data, a development key."""
