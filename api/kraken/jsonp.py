"""JSON-P: answers as a script that calls the client's function, for pages older than CORS."""

import re
from typing import Final

from api.kraken.parameters import malformed

# ``a.b.c``, as libraries make them; no library makes longer ones.
_CALLBACK: Final = re.compile(r"[A-Za-z_$][0-9A-Za-z_$]*(?:\.[A-Za-z_$][0-9A-Za-z_$]*)*")
CALLBACK_MAX: Final = 256
_RESERVED: Final = re.compile(
    "await|break|case|catch|class|const|continue|debugger|default|delete|do|else|enum|export|extends|false|finally|for|"
    "function|if|implements|import|in|instanceof|interface|let|new|null|package|private|protected|public|return|static|"
    "super|switch|this|throw|true|try|typeof|var|void|while|with|yield"
)
_BEYOND_ASCII: Final = re.compile(r"[^\x00-\x7f]")


def callback_of(text: str) -> str:
    """Return a function's name, which goes into the script unchanged; raise Invalid if it is not one."""
    reserved = any(_RESERVED.fullmatch(word) for word in text.split("."))
    if len(text) > CALLBACK_MAX or _CALLBACK.fullmatch(text) is None or reserved:
        raise malformed("callback", "the value must be the name of a JavaScript function")
    return text


def script(callback: str, body: bytes) -> bytes:
    """Return the script that calls ``callback`` with ``body``, which is JSON or empty.

    It is ASCII: a script is read in its page's encoding, and older engines end a line at U+2028.
    """
    return f"{callback}({_BEYOND_ASCII.sub(_escaped, body.decode())});".encode()


def _escaped(character: re.Match[str]) -> str:
    units = character.group().encode("utf-16-be").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
