"""Ends a command early: on a user's mistake, a request to stop, Ctrl-C."""

import contextlib
import difflib
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

FEW = 3  # names that a message lists
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UserError(ValueError):
    """Bad input from a person: one line that says what was given, what is expected and what to do.

    The commands print it without a traceback and exit with status 1.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


class Stopped(Exception):
    """The run was asked to stop and has saved what it had; the same command goes on from there.

    The commands print its one line and exit with status `EXIT_STATUS`.
    """

    EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: no failure, try again


class Interrupted(Stopped):
    """The same, asked by Ctrl-C."""

    EXIT_STATUS = 130


def end_on_interrupt() -> None:
    """Makes Ctrl-C end this process at once, with one line and status 130. For a command, before its imports."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as under nohup
        signal.signal(signal.SIGINT, _end)


@contextlib.contextmanager
def cleaning_up_on_interrupt() -> Iterator[None]:
    """Makes Ctrl-C in the block clean up first, such as finish a checkpoint; a second one does not wait for that."""
    def interrupt(*_) -> None:
        signal.signal(signal.SIGINT, _end)
        raise KeyboardInterrupt

    end_on_interrupt()
    if (before := signal.getsignal(signal.SIGINT)) is _end:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        _end()
    finally:
        signal.signal(signal.SIGINT, before)


def _end(*_) -> None:
    """Ends the process without waiting for the threads of libraries, which would print."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bars = getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ())  # on lines without an end
    print("\n" * bool(len(bars)) + "stopped; what was saved stays", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(130)


@contextlib.contextmanager
def as_user_error(prefix: str = "") -> Iterator[None]:
    """Turns a ValueError of the mathematics, within the block, into a `UserError` with a prefix such as a flag's."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{prefix}{error}") from error


def near_names(name: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """Returns a hint for an unknown name: "did you mean …?"; where none is near, `otherwise`, or else all names."""
    known = list(known)
    folded = {other.casefold(): other for other in known}
    near = [folded[other] for other in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(near)}?" if near else otherwise or f"there are {', '.join(known)}"


def chosen(names: str | Sequence[str], known: Mapping, what: str) -> list:
    """Returns the known things of these names, in this order, each once.

    Raises:
      ValueError: if there is no name, or on a name that does not exist, with the near ones.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not any(names):
        raise ValueError(f"there is no {what} to compare: name some, or say all")
    for name in names:
        if name not in known:
            raise ValueError(f"there is no {what} {name!r}; {near_names(name, known)}")
    return [known[name] for name in dict.fromkeys(names)]


def printable(text: str) -> str:
    """Returns a text with "�" for what would break a line or cannot be encoded, as in names of files."""
    return _UNPRINTABLE.sub("�", text)


def few(names: Sequence[str]) -> str:
    """Returns the first names of a list that may be long, and how many more there are."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more
