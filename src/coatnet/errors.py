"""What can go wrong for a user, each kind with the exit code that the command line returns for it."""


class CoatnetError(Exception):
    """An error that a user can understand and mend: one line, and a hint what to do.

    Args:
        message: what was got and what was expected, one line.
        hint: what to do about it, one line.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(CoatnetError, ValueError):
    """A flag, an argument or a config value that cannot be used."""

    exit_code = 2


class DataError(CoatnetError):
    """A data set or an image that cannot be read or used."""

    exit_code = 3


class ModelFileError(CoatnetError):
    """A model, a checkpoint or a classifier folder that is missing, damaged or refused."""

    exit_code = 4


def install_hint(extra: str) -> str:
    """How to install an optional part; coatnet comes from its own source, not from an index.

    Args:
        extra: its name in pyproject.toml.
    """
    return f"in coatnet's source folder: pip install '.[{extra}]'"


class MissingPartError(CoatnetError):
    """An optional part, a device or a download that is not there."""

    exit_code = 5


class QualityError(CoatnetError):
    """A quality gate failed, or training diverged."""

    exit_code = 6


class ResourceError(CoatnetError):
    """Out of memory or out of disk."""

    exit_code = 7


class Stopped(CoatnetError):  # noqa: N818 (an order was followed; nothing failed)
    """Stopped by a signal, with the state saved."""

    exit_code = 75
