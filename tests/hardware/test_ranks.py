"""Sharing work among processes: each item is done once, and torchrun gives the same videos as one process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from starflow.errors import UsageError
from starflow.hardware.ranks import Rank

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
import torch
from starflow.hardware.ranks import Rank
from tiny_pipeline import CAPTIONS, tiny_pipeline
torch.manual_seed(0)
pipeline, rank = tiny_pipeline(), Rank.of_this_process()
for index, prompt in rank.share(CAPTIONS):
    if "--fail" in sys.argv and rank.rank == 1:
        raise SystemExit("rank 1 has no more memory")
    frames = pipeline(prompt, generator=torch.Generator().manual_seed(index), output_type="pt").frames
    torch.save(frames, f"{sys.argv[1]}/{rank.size}-{index}.pt")
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_item_is_assigned_to_exactly_one_process(size: int):
    shares = [Rank(rank, size).share("abcde") for rank in range(size)]
    assert sorted(item for share in shares for item in share) == list(enumerate("abcde"))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_rank_is_read_from_the_environment_of_torchrun(monkeypatch: pytest.MonkeyPatch):
    assert Rank.of_this_process() == Rank(0, 1, 0)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    rank = Rank.of_this_process()
    assert rank == Rank(5, 8, 1)
    assert [rank.device(name) for name in ("cuda", "cuda:3", "cpu")] == ["cuda:1", "cuda:3", "cpu"]
    assert Rank().device("cuda") == "cuda"


@pytest.mark.parametrize("rank", ["8", "-1", "", "first"])
def test_invalid_ranks_are_refused(rank: str, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"RANK": rank, "WORLD_SIZE": "8", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="start the processes with torchrun"):
        Rank.of_this_process()


def torchrun(size: int, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    arguments = [str(folder / "script.py"), str(folder), str(Path(__file__).parents[1]), *options]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_two_processes_make_the_same_videos_as_one(tmp_path: Path):
    for size in (1, 2):
        assert torchrun(size, tmp_path).returncode == 0
    assert len(list(tmp_path.glob("*.pt"))) == 6
    for index in range(3):
        one, two = (torch.load(tmp_path / f"{size}-{index}.pt", weights_only=True) for size in (1, 2))
        assert torch.equal(one, two)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run(tmp_path: Path):
    result = torchrun(2, tmp_path, "--fail")
    assert result.returncode != 0
    assert "rank 1 has no more memory" in result.stderr
