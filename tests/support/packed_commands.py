"""Reading back commands in the form in which they are sent."""

from hiredis import Reader


def unpacked(packed: bytes) -> list[tuple[str, ...]]:
    """Return the commands that these bytes are."""
    reader, commands = Reader(notEnoughData=None), []  # commands are spelled as replies are
    reader.feed(packed)
    while (command := reader.gets()) is not None:
        commands.append(tuple([word.decode() for word in command]))
    return commands
