"""The rules of the user of Redis, as docs/operate.md has them."""

import re
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "operate.md"


def acl_rules(namespace: str) -> list[str]:
    """Return the keys, channels and commands of a user of an installation with this namespace, "" for none."""
    text = PAGE.read_text()
    (line,) = re.findall(r"^ACL SETUSER follows on >PASSWORD (.*)$", text, re.MULTILINE)
    rules: list[str] = line.split()
    if namespace:
        return [rule.replace("NAME", namespace) for rule in rules]
    (without,) = re.findall(r"^Without a namespace the keys and channels are `([^`]*)`", text, re.MULTILINE)
    return [*(rule for rule in rules if "NAME" not in rule), *without.split()]
