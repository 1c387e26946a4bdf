"""What the operator of a server decides. It loads without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starflow.errors import UsageError
from starflow.hardware.fitting import Fitting

MIB, GIB = 2**20, 2**30
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Limits:
    """What clients may ask for.

    Attributes:
        queued: jobs that wait.
        seconds: of a video, made or uploaded.
        pixels: of a frame that is made.
        upload_bytes: of a request.
        upload_pixels: of a frame that is uploaded.
        upload_frames: of a clip that is uploaded, at the rate of the video.
        decoding_seconds: for one upload.
        decoding_bytes: of memory, for one upload.
        requests_per_minute: of each key, for requests that make something.
        batch: jobs of the same size and length that are made at once.
    """

    queued: int = 100
    seconds: float = 60
    pixels: int = 2048 * 2048
    upload_bytes: int = 64 * MIB
    upload_pixels: int = 8192 * 8192
    upload_frames: int = 2048
    decoding_seconds: int = 60
    decoding_bytes: int = 4 * GIB
    requests_per_minute: int = 600
    batch: int = 4


@dataclass(frozen=True, kw_only=True)
class AccessSettings:
    """Where a server listens, and who may use it.

    Attributes:
        host, port: where it listens.
        keys: the names of the keys, by the SHA-256 of the key; empty for no keys.
        origins: other web pages that may use the server, such as `https://example.org`.
        hosts: names besides `host` by which clients may reach the server; `*` for any.
        limits: of what clients may ask for.

    Raises UsageError if others than this machine could use the server without a key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Mapping[bytes, str] = field(default_factory=dict)
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and not self.keys:
            raise UsageError(
                f"anybody who reaches {self.host} could use this server: give --api-key-file, or leave out --host"
            )


@dataclass(frozen=True)
class ServeSettings(AccessSettings):
    """The settings of the HTTP API.

    Attributes:
        model: a bundled model, a folder, or a hub id.
        data_dir: for the database and all files.
        database: an SQLAlchemy URL; None for an SQLite file in `data_dir`.
        workers: processes that own a copy of the model; on a Ray cluster, the least number of them.
        max_workers: the most workers on a Ray cluster; None for always `workers`.
        ray: the address of a Ray cluster whose machines the workers run on, or `auto`; None for this machine.
        device, dtype: of the model. None is the best device; a device without a number is given one per worker.
        fitting: how the model is made to fit the device.
        loras: the adapters that clients may use: their files, folders or hub ids, by name.
        options: options of generation that replace the model's settings, unless a client sends its own.
        keep_seconds: how long a finished video is kept.
        keep_bytes: how much finished videos may take; the oldest are removed.
    """

    model: str
    data_dir: Path
    database: str | None = None
    workers: int = 1
    max_workers: int | None = None
    ray: str | None = None
    device: str | None = None
    dtype: str = "float32"
    fitting: Fitting = Fitting()
    loras: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_seconds: float = 7 * 24 * 3600
    keep_bytes: int = 10 * GIB

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_workers is not None and self.max_workers < self.workers:
            raise UsageError(f"at least {self.workers} and at most {self.max_workers} workers cannot be")
        if self.ray is not None and self.device not in (None, "cpu", "cuda"):
            raise UsageError(f"with Ray, the device is cpu or cuda, not {self.device}")

    @property
    def database_url(self) -> str:
        """The URL of the database."""
        return self.database or f"sqlite:///{self.data_dir / 'jobs.sqlite'}"

    @property
    def model_id(self) -> str:
        """The name of the model for clients, without the folders of the server."""
        return Path(self.model).name if Path(self.model).is_dir() else self.model

    def folder(self, job_id: str) -> Path:
        """The folder of a job's files."""
        return self.data_dir / "videos" / job_id
