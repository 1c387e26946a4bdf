"""Errors that a user can act on. The command line prints their message as one line, without a traceback."""


class StarflowError(Exception):
    """Something failed: a model is missing, a file is corrupt, weights are NaN. Exit status 1."""


class UsageError(StarflowError):
    """The request is invalid: an unknown extension, a wrong key in a config. Exit status 2."""
