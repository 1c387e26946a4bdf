"""Random prompts, options and damaged media end in a video or in one clear error: never in a traceback."""

import resource
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starflow.cli import generate, score
from starflow.cli.main import run
from starflow.media.video import write_video
from tiny_pipeline import CAPTIONS, tiny_pipeline

MEBIBYTE = 2**20 if sys.platform == "darwin" else 2**10  # in the unit of ru_maxrss
MOST_MEMORY = 1500  # MiB that all examples may add

words = st.one_of(
    st.sampled_from(["", "0", "-1", "nan", "inf", "1e400", "0x10", "true", "1,5", "½", "-", "--", "a=b", "{prompt}"]),
    st.text(max_size=12).filter(lambda text: "\0" not in text),
)
numbers = st.one_of(st.integers(-2, 30), st.integers(10**15, 10**30), st.floats(-1, 3)).map(str)
values = st.one_of(numbers, words)
files = st.sampled_from(
    ["clip.mp4", "clip.gif", "picture.png", "frames", "damaged", "empty", "missing", "text.txt", "."]
)
OPTIONS = {
    "--aspect-ratio": st.one_of(st.sampled_from(["1:1", "2:1", "9:16", "1:9999", "0:1"]), words),
    "--context": values,
    "--extend": files,
    "--fps": values,
    "--guidance-scale": values,
    "--image": files,
    "--input-fps": values,
    "--last-image": files,
    "--name": words,
    "--num-frames": values,
    "--samples": st.one_of(st.integers(-1, 2).map(str), words),
    "--sampler": st.sampled_from(["sliding", "block-jacobi", "sequential", "published", "euler"]),
    "--seconds": st.one_of(st.floats(-1, 3).map(str), words),
    "--seed": values,
    "--size": st.one_of(st.sampled_from(["32x32", "16x48", "30x30", "0x0", "99999x99999"]), words),
    "--tolerance": st.sampled_from(["0.1", "0.01", "0", "-1", "nan"]),
    "--video": files,
    "-o": st.sampled_from(["a.mp4", "a.gif", "a.webp", "a.png", "folder/", "a.xyz", "a", "clip.mp4", "text.txt"]),
}
options = st.dictionaries(st.sampled_from(sorted(OPTIONS)), st.none(), max_size=4).flatmap(
    lambda chosen: st.fixed_dictionaries({name: OPTIONS[name] for name in chosen})
)
prompts = st.one_of(st.sampled_from(CAPTIONS), st.text(max_size=40), st.text(st.characters(), max_size=8))
damage = st.tuples(
    st.floats(0, 1), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=6)
)
cases = given(prompt=prompts, chosen=options, damage=damage, is_score=st.booleans())
without_limits = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


@pytest.fixture(scope="module")
def folder(model: str, tmp_path_factory: pytest.TempPathFactory):
    """The working folder, with files of several kinds; the model is loaded once."""
    folder, frames = tmp_path_factory.mktemp("fuzzing"), np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), "u1")
    for name in ("clip.mp4", "clip.gif", "frames/"):
        write_video(f"{folder}/{name}", frames, 8)
    write_video(folder / "picture.png", frames[:1], 0)
    (folder / "empty").touch()
    (folder / "text.txt").write_text("text")
    pipeline = cache(tiny_pipeline)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (generate, score):
            patch.setattr(command, "load_pipeline", lambda *_, **__: pipeline())
        yield folder


def check(model: str, folder: Path, prompt: str, chosen: dict[str, str], damage, is_score: bool) -> None:
    kept, flips = damage
    content = bytearray((folder / "clip.mp4").read_bytes())
    content = content[: max(1, int(len(content) * kept))]
    for place, bit in flips:
        content[int(len(content) * place**3)] ^= 1 << bit
    (folder / "damaged").write_bytes(content)
    arguments = ["generate", prompt, *(word for pair in chosen.items() for word in pair)]
    if is_score:
        arguments = ["score", chosen.get("--video", "damaged"), "--prompt", prompt, "--seed", chosen.get("--seed", "0")]
    assert run([*arguments, "--model", model]) in (0, 1, 2)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBIBYTE
    assert used < BEFORE + MOST_MEMORY


BEFORE = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBIBYTE


@settings(max_examples=40, **without_limits)
@cases
@pytest.mark.filterwarnings("ignore")
def test_random_arguments(model: str, folder: Path, prompt: str, chosen: dict[str, str], damage, is_score: bool):
    check(model, folder, prompt, chosen, damage, is_score)


@pytest.mark.slow
@settings(max_examples=2000, **without_limits)
@cases
@pytest.mark.filterwarnings("ignore")
def test_many_random_arguments(model: str, folder: Path, prompt: str, chosen: dict[str, str], damage, is_score: bool):
    check(model, folder, prompt, chosen, damage, is_score)
