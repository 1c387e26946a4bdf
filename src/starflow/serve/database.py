"""The tables, and connections to the database."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import JSON, BigInteger, Engine, Index, Integer, create_engine, event
from sqlalchemy.exc import ArgumentError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from starflow.errors import StarflowError, UsageError

BUSY_SECONDS = 30
ATTEMPTS, PAUSE_SECONDS = 6, 0.2

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Table(DeclarativeBase):
    """The base of the tables."""


class Job(Table):
    """A job. Times are Unix seconds; `settings` is all that was decided about it, `result` the answer of a score."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("by_idempotency_key", "owner", "idempotency_key", unique=True),
        Index("by_status", "status", "number"),
    )

    number: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]  # video, image or score
    owner: Mapped[str] = mapped_column(default="")
    request_id: Mapped[str] = mapped_column(default="")
    status: Mapped[str] = mapped_column(default="queued")
    prompt: Mapped[str]
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    ignored: Mapped[list[str]] = mapped_column(JSON, default=list)
    batch_key: Mapped[str | None] = mapped_column(default=None)
    idempotency_key: Mapped[str | None] = mapped_column(default=None)
    digest: Mapped[str] = mapped_column(default="")  # of the request
    source_id: Mapped[str | None] = mapped_column(default=None)  # the video that is edited or continued
    progress: Mapped[int] = mapped_column(default=0)  # percent
    attempts: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None] = mapped_column(default=None)
    lease_until: Mapped[float | None] = mapped_column(default=None)
    created_at: Mapped[float] = mapped_column(default=time.time)
    started_at: Mapped[float | None] = mapped_column(default=None)
    completed_at: Mapped[float | None] = mapped_column(default=None)
    expires_at: Mapped[float | None] = mapped_column(default=None)
    error_code: Mapped[str | None] = mapped_column(default=None)
    error_message: Mapped[str | None] = mapped_column(default=None)
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)


class Worker(Table):
    """A worker that has loaded the model."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[float]
    peak_memory_bytes: Mapped[int] = mapped_column(BigInteger)


def connect(url: str) -> Engine:
    """An engine for a URL, with the tables.

    Raises:
        UsageError: the URL is not one of SQLAlchemy, or its driver is not installed.
        StarflowError: the database cannot be reached.
    """
    try:
        if url.startswith("sqlite"):
            engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
            event.listen(engine, "connect", _set_up_sqlite)
        else:
            engine = create_engine(url, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise UsageError(f"cannot use the database {url}: {error}") from error
    try:
        _create_tables(engine)
    except OperationalError as error:
        raise StarflowError(f"cannot reach the database {engine.url!r}: {error.orig}") from error
    return engine


def _set_up_sqlite(connection: Any, _: Any) -> None:
    """Let readers and a writer work at the same time, and survive a power failure."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def retried(method: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Call a method again, after a pause, if the connection to the database is lost."""

    @wraps(method)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        for attempt in range(ATTEMPTS - 1):
            try:
                return method(*args, **kwargs)
            except (OperationalError, InterfaceError):
                time.sleep(PAUSE_SECONDS * 2**attempt)
        return method(*args, **kwargs)

    return call


@retried
def _create_tables(engine: Engine) -> None:
    Table.metadata.create_all(engine)
