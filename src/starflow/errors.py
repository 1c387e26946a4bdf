"""Errors that a user can act on. The command line prints their message as one line, without a traceback."""


class StarflowError(Exception):
    """Something is not as it must be: a missing model, a corrupt file, NaN in the weights. Exit status 1."""


class UsageError(StarflowError):
    """What was asked for makes no sense: an unknown extension, a wrong key in a config. Exit status 2."""
