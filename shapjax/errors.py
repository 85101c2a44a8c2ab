"""The one exception for a user's mistake."""


class UserError(ValueError):
    """Bad input from a person: one line that says what was given, what is expected and what to do.

    The commands print it without a traceback and exit with status 1.
    """
