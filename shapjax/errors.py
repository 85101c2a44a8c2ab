"""Exceptions that end a command early: a user's mistake, a request to stop."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence

FEW = 3  # names that a message lists


class UserError(ValueError):
    """Bad input from a person: one line that says what was given, what is expected and what to do.

    The commands print it without a traceback and exit with status 1.
    """


class Stopped(Exception):
    """The run was asked to stop and has saved what it had; the same command goes on from there.

    The commands print its one line and exit with status `EXIT_STATUS`.
    """

    EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: no failure, try again


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
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
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


def few(names: Sequence[str]) -> str:
    """Returns the first names of a list that may be long, and how many more there are."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more
