"""Write files and folders atomically, and remove them."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from starflow import __version__

SOFTWARE = f"starflow {__version__}"  # in the metadata of what is written
TEMPORARY = ".starflow-"  # how the names of temporary folders begin; with the file's own name they could be too long


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path next to `path`, which is renamed to `path` on success and removed on failure.

    The caller writes a file or a folder there. The temporary path has the suffix of `path`, from which some writers
    take the format. A folder replaces an older folder. Missing parent folders are created.

    An exception removes the temporary path, a signal only if it raises one: the command line makes SIGTERM do so.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=path.parent) as scratch:
        temporary = Path(scratch) / path.name
        yield temporary
        _make_durable(temporary)
        if temporary.is_dir() and path.exists():
            os.replace(path, Path(scratch) / "replaced")  # a folder cannot be renamed onto one that is not empty
        os.replace(temporary, path)


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a file, or a folder and its contents, if it exists. Others may remove it at the same time."""
    path = Path(path)
    while path.is_dir() and not path.is_symlink():
        with suppress(FileNotFoundError):  # of what another has just removed
            shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _make_durable(path: Path) -> None:
    """Flush to disk, so that a renamed file is not empty after a power failure."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
