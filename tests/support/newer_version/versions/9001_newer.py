"""A migration of a version that comes after this one: a kind of event, and a column of the log."""

from importlib.resources import files

from alembic import op

revision = "9001_newer"
_FOLDER = files("commands.db").joinpath("migrations", "versions")
down_revision = max(path.name for path in _FOLDER.iterdir() if path.name.endswith(".py"))[:-3]
compatible_with = down_revision


def upgrade() -> None:
    op.execute("ALTER TYPE event_type ADD VALUE 'UserMuted'")
    op.execute("ALTER TABLE events ADD COLUMN note text")
