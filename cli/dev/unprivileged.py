"""Starting a server as another user, since PostgreSQL refuses to run as root.

The server keeps one capability of root (DAC_OVERRIDE), so that it works in folders that only root may enter. Where the
machine does not grant it (a small container, macOS), the server runs without it, and its folder must be one that others
may enter.
"""

import ctypes
import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SETUID_CAPABILITIES = (1 << 6) | (1 << 7)  # CAP_SETGID, CAP_SETUID
DAC_OVERRIDE = 1 << 1
PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 47, 2
PR_SET_SECUREBITS, NO_SETUID_FIXUP = 28, 1 << 2
CAPABILITY_VERSION_3 = 0x20080522


class Account(NamedTuple):
    """A user of this machine, by ids."""

    uid: int
    gid: int


def account_for(folder: Path) -> Account | None:
    """Return the user that a server on ``folder`` must run as; None (the current user) unless that is root.

    For root, return the owner of an existing data folder, so that a folder made by an ordinary user also works under
    sudo; for a new folder, the user "nobody".
    """
    if os.geteuid() != 0:
        return None
    if folder.exists() and (owner := folder.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return Account(65534, 65534)
    return Account(nobody.pw_uid, nobody.pw_gid)


def keeps_reach() -> bool:
    """Return whether a server started through `become` can enter folders that only root may enter."""
    try:
        found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return False
    wanted = SETUID_CAPABILITIES | DAC_OVERRIDE
    return found is not None and int(found[1], 16) & wanted == wanted


def become(account: Account | None) -> Callable[[], None] | None:
    """Return a `preexec_fn` that makes a child run as ``account``; None for None."""
    if account is None:
        return None
    # Loaded before the fork: between fork and exec a child should do as little as possible.
    libc = ctypes.CDLL(None, use_errno=True) if keeps_reach() else None

    def change() -> None:
        if libc is not None:
            _check(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
            # Without it access(2), with which initdb looks for postgres, ignores the capability. Some machines refuse.
            libc.prctl(PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0, 0, 0)
        os.setgroups([])
        os.setgid(account.gid)
        os.setuid(account.uid)
        if libc is not None:
            _keep(libc, DAC_OVERRIDE)

    return change


def _keep(libc: ctypes.CDLL, mask: int) -> None:
    """Drop every capability but ``mask``, and keep that one through exec."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    _check(libc.capset(header, data))
    number = mask.bit_length() - 1
    _check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
