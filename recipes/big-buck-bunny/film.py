"""Get the film Big Buck Bunny and cut it into captioned shots, small enough to train on with a CPU.

    python recipes/big-buck-bunny/film.py FOLDER

writes FOLDER/train and FOLDER/test: a clip of each shot in `shots.jsonl`, and its caption beside it. The film comes
with the source package of moviepy 2.2.1 (58 MB), which pip downloads. Nothing of the package is installed.

Big Buck Bunny is (c) copyright 2008, Blender Foundation / www.bigbuckbunny.org, licensed under CC BY 3.0.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from starflow.media.files import atomic_write
from starflow.media.frames import Frame
from starflow.media.video import open_video
from starflow.media.writing import write_frames

PACKAGE = "moviepy==2.2.1"
PACKAGE_SHA256 = "c80cb56815ece94e5e3e2d361aa40070eeb30a09d23a24c4e684d03e16deacb1"
ARCHIVE = "moviepy-2.2.1/docs/_static/medias/getting_started/moviepy_10_minutes/moviepy_10_minutes.zip"
FILM = "moviepy_10_minutes/resources/bbb.mp4"
FILM_SHA256 = "475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0"
FPS = 24
SIZE = (64, 112)  # height and width; the film's 1280×720 lose 1.6 % at the sides


def get_film(path: Path) -> None:
    """Write the film to `path`. Exits with a message if it cannot be had, or is not the file it should be."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "-d", folder]
        if subprocess.run([*pip, PACKAGE], check=False).returncode:
            sys.exit(f"pip could not download {PACKAGE}, which holds the film")
        (package,) = Path(folder).glob("moviepy-*.tar.gz")
        _check(package, PACKAGE_SHA256)
        with tarfile.open(package) as tar, tempfile.TemporaryFile() as archive:
            member = tar.extractfile(ARCHIVE)
            assert member is not None  # the checksum has said so
            archive.write(member.read())
            with zipfile.ZipFile(archive) as inner, atomic_write(path) as temporary:
                temporary.write_bytes(inner.read(FILM))
                _check(temporary, FILM_SHA256)


def _check(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            sys.exit(f"{path.name} is not the file that this script was written for")


def cut(film: Path, shots: list[dict], folder: Path) -> None:
    """Write the shots, which are in the order of the film, and their captions."""
    frames = (timed.item for timed in open_video(film).frames(size=SIZE))
    position = 0
    for shot in shots:
        name = folder / shot["split"] / f"shot-{shot['shot']:03}.mp4"
        name.parent.mkdir(parents=True, exist_ok=True)
        _skip(frames, shot["start_frame"] - position)
        position = shot["end_frame"]
        num_frames = position - shot["start_frame"]
        write_frames(name, islice(frames, num_frames), num_frames, FPS)
        name.with_suffix(".txt").write_text(shot["caption"] + "\n", encoding="utf-8")
        print(f"\r{shot['shot']} of {shots[-1]['shot']} shots", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def _skip(frames: Iterator[Frame], number: int) -> None:
    next(islice(frames, number, number), None)


def main() -> None:
    """Get and cut the film; what is there already is not done again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    film = folder / "film.mp4"
    if not film.exists():
        get_film(film)
    shots = [json.loads(line) for line in Path(__file__).with_name("shots.jsonl").read_text().splitlines()]
    if not (folder / "train" / "shot-125.txt").exists():
        cut(film, shots, folder)


if __name__ == "__main__":
    main()
