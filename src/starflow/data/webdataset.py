"""WebDataset shards: tar files of clips and captions, on disk or in any store that fsspec reads (S3, GCS, HTTP, …).

The files of a sample have names that differ after the first dot only: `0001.mp4`, and `0001.txt` or `0001.json`. The
headers and captions of a shard are read once, into a list on disk. Clips are read alone, each by its range of bytes,
so the loader shuffles them, shares them among processes and resumes at any place, as it does with files. A clip lies in
a temporary file only while it is decoded.

Needs the extra `webdataset`; `s3` for shards in S3; and for other stores the package that fsspec names.
"""

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from starflow.data.clip import Clip, ClipFile
from starflow.data.disk_list import Listing
from starflow.data.folder import VIDEO_EXTENSIONS, encoding_of
from starflow.data.table import CAPTION_COLUMNS, captions_of
from starflow.errors import StarflowError, UsageError
from starflow.media.reading import IMAGE_EXTENSIONS
from starflow.media.video import open_video, read_video

MEDIA_EXTENSIONS = VIDEO_EXTENSIONS | IMAGE_EXTENSIONS
CAPTION_EXTENSIONS = {".txt", ".json", *(f".{name}" for name in CAPTION_COLUMNS)}
THREADS = 8  # shards whose headers are read at once


class Member(NamedTuple):
    """A clip in a shard: the address of the shard, its name there, and its bytes."""

    shard: str
    name: str
    offset: int
    size: int
    modified: float
    captions: list[str]


def _member(value: list[Any]) -> Member:
    return Member(*value)


@dataclass(frozen=True)
class WebDataset:
    """The clips of WebDataset shards, in the order of the shards.

    Args:
        path: paths or addresses of the shards, such as `shards/{000..009}.tar` or `s3://bucket/*.tar`.

    Raises UsageError if there is no such shard or store, or nothing in them can be used; OSError if the store fails.
    """

    path: str

    def __post_init__(self) -> None:
        if not self.members:
            reasons = f" ({self.left_out[0]})" if self.left_out else ""
            raise UsageError(f"{self.path} holds no clip with a caption, such as 0001.mp4 and 0001.txt{reasons}")

    @cached_property
    def listing(self) -> Listing[Member]:
        """The clips, and what is left out."""
        with ThreadPoolExecutor(THREADS) as pool:
            return Listing(chain.from_iterable(pool.map(read_shard, expand(self.path))), _member)

    @property
    def members(self) -> Sequence[Member]:
        """The clips that can be used."""
        return self.listing.items

    @property
    def left_out(self) -> list[str]:
        """What cannot be used, each with the reason."""
        return self.listing.left_out

    @property
    def fingerprint(self) -> str:
        """A digest of the identities of the clips."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(self.identity(index).encode())
        return f"webdataset {digest.hexdigest()[:16]}"

    def identity(self, index: int) -> str:
        """A digest of the clip's shard, name, size and time of change, and of its captions. See `FileSource`."""
        shard, name, _, size, modified, captions = self.members[index]
        about = [PurePosixPath(shard).name, name, str(size), str(modified), *captions]
        return hashlib.sha256("\0".join(about).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> Clip:
        """The whole clip. Raises StarflowError if it is corrupt, OSError if the store fails."""
        with self._on_disk(index) as (path, member), _named(path, member):
            frames, fps = read_video(path)
        return Clip(frames, fps, member.captions, name=_name(member))

    @contextmanager
    def open(self, index: int) -> Iterator[ClipFile]:
        """See `FileSource`."""
        with self._on_disk(index) as (path, member), _named(path, member):
            yield ClipFile(open_video(path), member.captions, _name(member))

    @contextmanager
    def _on_disk(self, index: int) -> Iterator[tuple[Path, Member]]:
        """A clip in a temporary file."""
        member = self.members[index]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"clip{PurePosixPath(member.name).suffix}"
            with reading(member.shard) as (store, shard):
                path.write_bytes(store.cat_file(shard, start=member.offset, end=member.offset + member.size))
            yield path, member


def expand(shards: str) -> list[str]:
    """The addresses that a pattern with `{000..009}` and `*` stands for, in order. Raises UsageError if none exists."""
    try:
        from braceexpand import braceexpand
        from fsspec.core import url_to_fs
    except ImportError:
        raise StarflowError(
            "WebDataset needs the extra 'webdataset': in the repository, pip install -c constraints.txt -e "
            "'.[webdataset]'"
        ) from None
    addresses: list[str] = []
    for address in braceexpand(shards):
        if "*" not in address:
            addresses.append(address)
            continue
        try:
            store, path = url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise UsageError(f"cannot open {address}: {error}") from error
        with reading(address):
            addresses += [store.unstrip_protocol(found) for found in sorted(store.glob(path))]
    if not addresses:
        raise UsageError(f"no shard at {shards}")
    return addresses


@contextmanager
def reading(shard: str) -> Iterator[tuple[Any, str]]:
    """The store of a shard, and its path there.

    Raises UsageError if there is no such store or shard, OSError if the store fails: then nothing is wrong with the
    clips, so they are not left out.
    """
    from fsspec.core import url_to_fs

    try:
        yield url_to_fs(shard)
    except FileNotFoundError as error:
        raise UsageError(f"no shard at {shard}") from error
    except (ImportError, ValueError) as error:
        raise UsageError(f"cannot open {shard}: {error}") from error
    except tarfile.TarError:
        raise
    except Exception as error:  # stores raise errors of their own
        raise OSError(f"the store does not answer for {shard}: {' '.join(str(error).split())}") from error


def read_shard(shard: str) -> list[Member | str]:
    """The clips of a shard that can be used, and a line for each that cannot. Raises as `reading`."""
    members: list[tarfile.TarInfo] = []
    texts: dict[str, bytes] = {}
    left_out: list[str] = []
    with reading(shard) as (store, path), store.open(path, "rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if member.isfile() and PurePosixPath(member.name).suffix.lower() in CAPTION_EXTENSIONS:
                        texts[member.name] = _content(tar, member)
                    elif member.isfile():
                        members.append(member)
        except tarfile.TarError as error:
            left_out.append(f"{shard}: it is no tar file, or is cut off after {len(members)} clips ({error})")
        size = file.size if hasattr(file, "size") else store.size(path)
    return [*left_out, *_sorted_out(shard, size, members, texts)]


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _sorted_out(
    shard: str, shard_size: int, members: Iterable[tarfile.TarInfo], texts: Mapping[str, bytes]
) -> Iterator[Member | str]:
    captions: dict[str, list[str]] = {}
    for name, content in texts.items():
        try:
            captions.setdefault(_key(name), []).extend(_captions(name, content))
        except ValueError:
            yield f"{shard}/{name}: it is not UTF-8 text, or not JSON"
    owners: dict[str, str] = {}
    for member in members:
        key = _key(member.name)
        where = f"{shard}/{member.name}"
        if PurePosixPath(member.name).suffix.lower() not in MEDIA_EXTENSIONS:
            yield f"{where}: it is neither a clip nor a caption"
        elif not captions.get(key):
            yield f"{where}: no caption"
        elif owners.setdefault(key, member.name) != member.name:
            yield f"{where}: its caption is that of {owners[key]}"
        elif member.offset_data + member.size > shard_size:
            yield f"{where}: the shard is cut off there"
        else:
            yield Member(shard, member.name, member.offset_data, member.size, float(member.mtime), captions[key])


def _key(name: str) -> str:
    """The part of a name that all files of a sample share: up to the first dot after the last slash."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _captions(name: str, content: bytes) -> list[str]:
    """The captions of a text or of a JSON object. Raises ValueError if it is neither."""
    text = content.decode(encoding_of(content))
    if not name.lower().endswith(".json"):
        return captions_of(text)
    about = json.loads(text)
    found = [about[column] for column in CAPTION_COLUMNS if column in about] if isinstance(about, dict) else []
    return captions_of(found[0]) if found else []


def _name(member: Member) -> str:
    return f"{member.shard}/{member.name}"


@contextmanager
def _named(path: Path, member: Member) -> Iterator[None]:
    """Let errors name the clip instead of the temporary file."""
    try:
        yield
    except StarflowError as error:
        raise StarflowError(str(error).replace(str(path), _name(member))) from error
