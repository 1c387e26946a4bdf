"""A PostgreSQL server on the loopback interface, with a database of its own for each test."""

import os
import pwd
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import pytest

_numbers = count()


def program(name: str) -> Path:
    """One of PostgreSQL's programs, of the newest version. The test is skipped if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    if not found:
        pytest.skip("PostgreSQL is not installed in /usr/lib/postgresql")
    return found[0]


@contextmanager
def postgresql_server() -> Iterator[int]:
    """The port of a server, whose user `starflow` needs no password."""
    initdb, server = program("initdb"), program("postgres")
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, object] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
        if os.getuid() == 0:  # the server refuses to run as root
            user = pwd.getpwnam("nobody")
            os.chown(folder, user.pw_uid, user.pw_gid)
            options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        data = f"{folder}/data"
        subprocess.run([initdb, "-D", data, "-U", "starflow", "--auth=trust", "--no-sync"], check=True, **options)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        process = subprocess.Popen([server, "-D", data, *flags], **options)
        try:
            _wait(port)
            yield port
        finally:
            process.send_signal(signal.SIGINT)  # does not wait for clients
            process.wait(30)


def _wait(port: int) -> None:
    """Wait until the server takes connections."""
    for _ in range(300):
        try:
            _connect(port).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("PostgreSQL does not answer")


def _connect(port: int):  # of psycopg, which tests without PostgreSQL do not need
    import psycopg

    try:
        return psycopg.connect(host="127.0.0.1", port=port, user="starflow", dbname="postgres", autocommit=True)
    except psycopg.OperationalError as error:
        raise OSError(str(error)) from error


def new_database(port: int) -> str:
    """The URL of a new database, without tables."""
    name = f"test_{next(_numbers)}"
    with closing(_connect(port)) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://starflow@127.0.0.1:{port}/{name}"


def kill_connections(url: str) -> int:
    """End all connections to a database, as a failure of the network would. Returns how many there were."""
    address, _, name = url.rpartition("/")
    with closing(_connect(int(address.rpartition(":")[2]))) as connection:
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        return len(connection.execute(query, [name]).fetchall())
