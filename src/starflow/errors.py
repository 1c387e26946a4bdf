"""Errors that a user can act on. The command line prints their message as one line, without a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class StarflowError(Exception):
    """Something failed: a model is missing, a file is corrupt, weights are NaN. Exit status 1."""


class UsageError(StarflowError):
    """The request is invalid: an unknown extension, a wrong key in a config. Exit status 2."""


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to `name`, to suggest in a message; None if no known name is similar."""
    return next(iter(get_close_matches(name, list(known), n=1)), None)
