"""docs/diffusers.md: every line of its tables is run, and does what the table says."""

import copy
import pickle
import re
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.utils import export_to_video

import starflow
from adapters import save_random_adapter
from starflow.pipeline.options import FOREIGN
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import CAPTIONS, tiny_pipeline

PAGE = (Path(__file__).parents[2] / "docs" / "diffusers.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(.+?)` \| (.+) \|$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def pipeline() -> StarFlowPipeline:
    return tiny_pipeline(guidance_scale=2.0)


@pytest.fixture(scope="module")
def folder(pipeline: StarFlowPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lora(pipeline: StarFlowPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_adapter(pipeline, tmp_path_factory.mktemp("lora"))


@pytest.mark.parametrize(("code", "meaning"), ROWS, ids=[code for code, _ in ROWS])
def test_a_line_of_the_tables_does_what_it_says(
    code: str,
    meaning: str,
    pipeline: StarFlowPipeline,
    folder: Path,
    lora: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path))
    names = {
        "AutoencoderKL": AutoencoderKL,
        "DiffusionPipeline": DiffusionPipeline,
        "StarFlowPipeline": StarFlowPipeline,
        "ThreadPool": ThreadPool,
        "clip": torch.rand(9, 3, 32, 32),
        "copy": copy,
        "export_to_video": export_to_video,
        "folder": folder,
        "lora": lora,
        "image": torch.rand(3, 32, 32),
        "pickle": pickle,
        "pipe": copy.deepcopy(pipeline),
        "prompt": CAPTIONS[0],
        "seeded": torch.Generator,
        "starflow": starflow,
        "torch": torch,
    }
    error = re.match(r"`(\w+Error)`", meaning)
    if error is None:
        exec(code, names)
        return
    with pytest.raises(Exception, match=r".") as raised:
        exec(code, names)
    assert raised.type.__name__ == error[1]


def test_the_tables_have_every_foreign_argument():
    assert len(ROWS) == PAGE.count("\n| `")
    for name in FOREIGN:
        assert any(f"{name}=" in code for code, _ in ROWS), name
