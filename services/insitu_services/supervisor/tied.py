"""Starts a program that dies with the one who asked for it: `tied.py PARENT SIGNAL [USER:GROUP] -- PROGRAM...`.

Run as a file by a bare interpreter (`python -I -S`), so that it costs milliseconds; it replaces itself by the program.
Not here: descendants of the program, which the guardian ends.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> None:
    """Tie this process to its parent, give up root where asked, become the program."""
    split = sys.argv.index("--")
    parent, number, *who = sys.argv[1:split]
    if who:
        user, _, group = who[0].partition(":")
        os.setgroups([])
        os.setgid(int(group))
        os.setuid(int(user))
    # After the change of user, which clears it (prctl(2)).
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != int(parent):  # it died before the tie was made
        sys.exit(1)
    program = sys.argv[split + 1 :]
    os.execv(program[0], program)  # noqa: S606


if __name__ == "__main__":
    main()
