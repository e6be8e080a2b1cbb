"""The command ``fusestep``, which ``python -m fusestep`` is too.

::

    fusestep [--report] script.py …   run a PyTorch script on our kernels
    fusestep [--report] -m module …   the same for a module
    fusestep doctor                   what runs here, and whether it is right
    fusestep bench                    what it brings on this machine
    fusestep ops                      what there is

Exit codes of the commands: 0; 1 if something was found wrong; 2 if they cannot be carried out. A script has
its own.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from fusestep import _config
from fusestep._version import __version__

COMMANDS = ("doctor", "bench", "ops")
USAGE = (__doc__ or "").split("::\n\n")[1].split("\n\n")[0]


class Failure(Exception):
    """What cannot be carried out: a line for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line; returns the exit code, unless a script raises what it raises."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS and not os.path.isfile(given[0]):
        command = importlib.import_module(f"fusestep.cli.{given[0]}")
        return _carried_out(lambda: command.main(given[1:]))
    return _carried_out(lambda: _script(given))


def _carried_out(command: Callable[[], int]) -> int:
    try:
        _check_environment()
        return command()
    except Failure as failure:
        print(f"fusestep: {failure}", file=sys.stderr)
        return 2


def _check_environment() -> None:
    try:
        _config.check_environment()
    except ValueError as error:
        raise Failure(str(error)) from None


def needs_torch(what: str) -> None:
    if not _config.has_torch():
        raise Failure(f"{what} needs PyTorch, which is not installed: pip install torch")


def _script(given: list[str]) -> int:
    report = False
    while given and given[0].startswith("-"):
        option = given.pop(0)
        if option == "--report":
            report = True
        elif option in ("-h", "--help"):
            print(USAGE)
            return 0
        elif option == "--version":
            print(f"fusestep {__version__}")
            return 0
        elif option == "-m":
            return _run("module", given, report)
        else:
            raise Failure(f"unknown option {option}; see fusestep --help")
    return _run("script", given, report)


def _run(kind: str, given: list[str], report: bool) -> int:
    if not given:
        raise Failure(f"which {kind}? see fusestep --help")
    needs_torch("running a script")
    from fusestep.cli import script

    script.run(script.module(given) if kind == "module" else script.file(given), report)
    return 0
