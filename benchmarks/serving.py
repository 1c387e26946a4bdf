"""A server under load, and what the viewer of a stream sees.

    python benchmarks/serving.py load --clients 200 --jobs 2000 --num-frames 1
    python benchmarks/serving.py soak --clients 8 --minutes 15 --repeats 4 --num-frames 1
    python benchmarks/serving.py batch --jobs 40
    python benchmarks/serving.py stream --num-frames 81 --repeats 5
    python benchmarks/serving.py cancel --num-frames 161 --repeats 3

Each starts `starflow serve` on the loopback interface with a fresh data folder, prints a table, and writes JSON
with -o.

    load     every client queues a video, waits for it, downloads it, deletes it, and begins again; a full queue makes
             it wait as long as the server says. No job may be lost, or made twice, and memory must not grow.
    soak     as load, for some minutes, but the clients leave their videos to the server, which removes the oldest.
             Neither memory nor the data folder may grow.
    batch    jobs per second with and without batches, alternately
    stream   over the WebSocket: seconds to the first chunk, between chunks, per second of video, and how often a player
             that starts at the first chunk, or half a second or a second later, would have to stop
    cancel   seconds until a video that is cancelled while it is made has left the disk, and until the next request is
             begun; the memory of all processes before the video, before it is cancelled, and once the next is made
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from harness import new_parser, positive, run, write_results
from starflow.serve.supervisor import SECONDS_BETWEEN_CLEANINGS
from viewer import viewed

PROMPT = "a red circle orbits"
POLL_SECONDS = 1.0
START_SECONDS = 300
SERVING = " at http://"
ROUNDS = 4
QUEUE = ("--max-queue", "100")
LAST_LINES = 20


@contextmanager
def server(model: str, *options: str) -> Iterator[tuple[str, psutil.Process]]:
    """The URL of a server with a worker that is ready, and its process."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "starflow", "serve", "--model", model, "--port", "0"]
        with log.open("w") as file:
            data = ["--data-dir", f"{folder}/data"]
            process = subprocess.Popen([*command, *data, *options], stderr=file)
        try:
            url = _url(log, process)
            _wait_until_ready(url)
            yield url, psutil.Process(process.pid)
        except httpx.TransportError as error:
            lines = log.read_text().splitlines()[-LAST_LINES:]
            raise SystemExit("\n".join([f"the connection to the server was lost: {error!r}", *lines])) from error
        finally:
            process.terminate()
            process.wait()


def _url(log: Path, process: subprocess.Popen) -> str:
    while SERVING not in (text := log.read_text()):
        if process.poll() is not None:
            raise SystemExit(f"the server did not start:\n{text}")
        time.sleep(0.1)
    return "http://" + text.split(SERVING)[1].split()[0]


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not httpx.get(f"{url}/ready").is_success:
        if time.monotonic() > deadline:
            raise SystemExit("no worker is ready")
        time.sleep(0.1)


def metric(url: str, name: str, **labels: str) -> float:
    """The sum of a metric of the server."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=60).text)
    samples = (sample for family in families for sample in family.samples)
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def memory(process: psutil.Process) -> float:
    """MiB of a server and its processes; memory that they share is counted once, where the system says so."""
    everyone = [process, *process.children(recursive=True)]
    return sum(getattr(each.memory_full_info(), "pss", each.memory_info().rss) for each in everyone) / 2**20


async def make(client: httpx.AsyncClient, fields: dict[str, Any], *, deletes: bool) -> tuple[str, float, int]:
    """Make a video: how it ended, seconds from acceptance to download, and refusals by a full queue."""
    refusals = 0
    while (response := await client.post("/v1/videos", json={"prompt": PROMPT} | fields)).status_code == 429:
        refusals += 1
        await asyncio.sleep(float(response.headers["Retry-After"]))
    response.raise_for_status()
    accepted, path = time.perf_counter(), f"/v1/videos/{response.json()['id']}"
    while (video := (await client.get(path)).raise_for_status().json())["status"] in ("queued", "in_progress"):
        await asyncio.sleep(POLL_SECONDS)
    if video["status"] == "completed":
        (await client.get(f"{path}/content")).raise_for_status()
    seconds = time.perf_counter() - accepted
    if deletes:
        (await client.delete(path)).raise_for_status()
    return video["status"], seconds, refusals


async def make_all(
    url: str, clients: int, seeds: Iterable[int], num_frames: int, *, deletes: bool = True
) -> list[tuple[str, float, int]]:
    """Make a video for each seed, by `clients` at the same time."""
    seeds, fields, made = iter(seeds), {"num_frames": num_frames}, []
    # httpx closes connections that expire, even those that it has just given to a request.
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients, keepalive_expiry=None)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:

        async def work() -> None:
            made.extend([await make(client, fields | {"seed": seed}, deletes=deletes) for seed in seeds])

        await asyncio.gather(*(work() for _ in range(clients)))
    return made


def under_load(
    url: str, process: psutil.Process, clients: int, seeds: Iterable[int], num_frames: int, *, deletes: bool
) -> dict[str, Any]:
    """What becomes of the videos of `seeds`, and the memory after them."""
    completed = partial(metric, url, "starflow_requests_success_total", finished_reason="completed")
    before, start = completed(), time.perf_counter()
    made = asyncio.run(make_all(url, clients, seeds, num_frames, deletes=deletes))
    seconds = time.perf_counter() - start
    statuses, waits, refusals = zip(*made, strict=True)
    return {
        "accepted": len(made),
        "completed": statuses.count("completed"),
        "made": int(completed() - before),
        "refused": sum(refusals),
        "jobs_per_second": len(made) / seconds,
        "p50_s": float(np.percentile(waits, 50)),
        "p99_s": float(np.percentile(waits, 99)),
        "memory_mib": memory(process),
    }


def load(model: str, clients: int, jobs: int, num_frames: int) -> Iterator[dict[str, Any]]:
    """A row for each quarter of the jobs."""
    with server(model, *QUEUE) as (url, process):
        asyncio.run(make_all(url, 4, range(8), num_frames))  # everything has been used once
        for _ in range(ROUNDS):
            yield under_load(url, process, clients, range(jobs // ROUNDS), num_frames, deletes=True)


def soak(
    model: str, clients: int, minutes: float, num_frames: int, repeats: int, keep_mib: float
) -> Iterator[dict[str, Any]]:
    """A row for each repeat, which lasts some minutes."""
    with server(model, *QUEUE, "--keep-gib", str(keep_mib / 1024)) as (url, process):
        asyncio.run(make_all(url, 4, range(8), num_frames))
        for _ in range(repeats):
            row = under_load(url, process, clients, seeds_for(minutes), num_frames, deletes=False)
            time.sleep(SECONDS_BETWEEN_CLEANINGS + 1)
            yield row | kept(url, data_folder(process))


def seeds_for(minutes: float) -> Iterator[int]:
    """Seeds, until the time is over."""
    end = time.monotonic() + 60 * minutes
    return takewhile(lambda _: time.monotonic() < end, count())


def data_folder(process: psutil.Process) -> Path:
    """The data folder of a server."""
    command = process.cmdline()
    return Path(command[command.index("--data-dir") + 1])


def kept(url: str, folder: Path) -> dict[str, Any]:
    """What a server without jobs keeps: the videos that it lists, their folders, and the MiB of its files."""
    return {
        "listed": num_listed(url),
        "folders": len(list((folder / "videos").iterdir())),
        "videos_mib": mib((folder / "videos").rglob("*")),
        "database_mib": mib(folder.glob("jobs.sqlite*")),
    }


def num_listed(url: str) -> int:
    """How many videos a server lists, page by page."""
    number, query = 0, {"limit": "100"}
    while (page := httpx.get(f"{url}/v1/videos", params=query, timeout=60).raise_for_status().json())["has_more"]:
        number += len(page["data"])
        query["after"] = page["last_id"]
    return number + len(page["data"])


def mib(paths: Iterable[Path]) -> float:
    """The size of files."""
    return sum(path.stat().st_size for path in paths if path.is_file()) / 2**20


def batch(model: str, jobs: int, num_frames: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each size of the batch: the medians over repeats, which alternate between the sizes."""
    sizes = (1, 2, 4)
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(repeats):
        for size in sizes:
            with server(model, "--max-batch", str(size), "--max-queue", str(jobs)) as (url, _):
                start = time.perf_counter()
                asyncio.run(make_all(url, jobs, range(jobs), num_frames))
                rates[size].append(jobs / (time.perf_counter() - start))
    return [{"max_batch": size, "jobs_per_second": float(np.median(rates[size]))} for size in sizes]


def stream(model: str, num_frames: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each repeat."""
    with server(model) as (url, _):
        fps = httpx.get(f"{url}/v1/models").json()["data"][0]["fps"]
        return [viewed(asyncio.run(arrivals(url, num_frames, seed)), fps) for seed in range(repeats)]


def cancel(model: str, num_frames: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each repeat."""
    with server(model) as (url, process), httpx.Client(base_url=url, timeout=START_SECONDS) as client:
        folder = data_folder(process) / "videos"
        picture = {"prompt": PROMPT, "num_frames": 1}
        client.post("/v1/videos/sync", json=picture).raise_for_status()  # everything has been used once
        return [cancelled(client, process, folder, picture, num_frames) for _ in range(repeats)]


def cancelled(
    client: httpx.Client, process: psutil.Process, folder: Path, picture: dict[str, Any], num_frames: int
) -> dict[str, Any]:
    """What happens when a video is cancelled in the middle."""
    before = memory(process)
    video = client.post("/v1/videos", json={"prompt": PROMPT, "num_frames": num_frames}).raise_for_status().json()
    path = f"/v1/videos/{video['id']}"
    while client.get(path).json()["progress"] < 30:
        time.sleep(0.1)
    during, start = memory(process), time.perf_counter()
    client.post(f"{path}/cancel").raise_for_status()
    while (folder / video["id"]).exists():
        time.sleep(0.01)
    removed = time.perf_counter() - start
    following = client.post("/v1/videos", json=picture).raise_for_status().json()
    while (state := client.get(f"/v1/videos/{following['id']}").json())["status"] == "queued":
        time.sleep(0.01)
    begun = time.perf_counter() - start
    while state["status"] == "in_progress":
        time.sleep(0.1)
        state = client.get(f"/v1/videos/{following['id']}").json()
    memories = {"mib_before": before, "mib_during": during, "mib_after": memory(process)}
    return {"files_removed_s": removed, "next_begun_s": begun, **memories}


async def arrivals(url: str, num_frames: int, seed: int) -> list[tuple[float, int]]:
    """Seconds from the request to each chunk, and the frames in it."""
    received = []
    async with connect(f"{url.replace('http', 'ws', 1)}/v1/realtime/video", proxy=None) as socket:
        start = time.perf_counter()
        await socket.send(
            json.dumps({"type": "session.start", "prompt": PROMPT, "num_frames": num_frames, "seed": seed})
        )
        while (message := json.loads(await socket.recv()))["type"] != "session.done":
            if message["type"] == "error":
                raise SystemExit(message["message"])
            if message["type"] == "video.chunk_metadata":
                await socket.recv()
                received.append((time.perf_counter() - start, message["num_frames"]))
    return received


def printed(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each of which is printed when it is there."""
    measured: list[dict[str, Any]] = []
    for row in rows:
        if not measured:
            print("  ".join(row))
        print("  ".join(f"{value:{len(name)}.4g}" for name, value in row.items()), flush=True)
        measured.append(row)
    return measured


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the first argument names."""
    parser = new_parser(__doc__)
    parser.add_argument("what", choices=["load", "soak", "batch", "stream", "cancel"])
    parser.add_argument("--model", default="toyworld")
    parser.add_argument("--clients", type=positive, default=200)
    parser.add_argument("--jobs", type=positive, default=2000)
    parser.add_argument("--minutes", type=float, default=15, help="of each repeat of soak")
    parser.add_argument("--keep-mib", type=float, default=1, help="the space for the videos of soak")
    parser.add_argument("--num-frames", type=positive, default=17)
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("-o", "--output", type=Path, help="a JSON file")
    asked = parser.parse_args(arguments)
    rows: Iterable[dict[str, Any]]
    if asked.what == "load":
        rows = load(asked.model, asked.clients, asked.jobs, asked.num_frames)
    elif asked.what == "soak":
        rows = soak(asked.model, asked.clients, asked.minutes, asked.num_frames, asked.repeats, asked.keep_mib)
    elif asked.what == "batch":
        rows = batch(asked.model, asked.jobs, asked.num_frames, asked.repeats)
    elif asked.what == "cancel":
        rows = cancel(asked.model, asked.num_frames, asked.repeats)
    else:
        rows = stream(asked.model, asked.num_frames, asked.repeats)
    rows = printed(rows)
    if asked.output is not None:
        write_results(asked.output, rows=rows)


if __name__ == "__main__":
    run(main)
