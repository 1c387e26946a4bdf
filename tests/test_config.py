from dataclasses import dataclass, field

import pytest

from starflow.config import MISSING, load_config, save_config
from starflow.errors import UsageError


@dataclass
class Optimizer:
    lr: float = 1e-3
    warmup_steps: int = 10


@dataclass
class Config:
    name: str = MISSING
    layers: list[int] = field(default_factory=lambda: [2, 2])
    optimizer: Optimizer = field(default_factory=Optimizer)


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


def test_precedence_is_overrides_then_file_then_defaults(write):
    config = load_config(Config, write("name: a\noptimizer: {lr: 0.1}"), ["layers=[3,1]", "optimizer.warmup_steps=5"])
    assert config == Config("a", [3, 1], Optimizer(0.1, 5))


def test_a_saved_config_can_be_loaded(write, tmp_path):
    config = load_config(Config, write("name: a"))
    save_config(config, tmp_path / "again.yaml")
    assert load_config(Config, tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            "name: a\noptimizer: {warmup: 1}",
            [],
            r"unknown key 'optimizer.warmup' in .*did you mean 'optimizer.warmup_s",
        ),
        ("name: a\nlayer: [1]", [], "unknown key 'layer' in .*did you mean 'layers'"),
        ("name: a", ["lr=1"], "unknown key 'lr' in the command line: did you mean 'optimizer.lr'"),
        ("name: a", ["zzzzz=1"], "unknown key 'zzzzz'.*known keys: name, layers, optimizer"),
        ("name: a\noptimizer: {lr: fast}", [], "wrong value for 'optimizer.lr'.*'fast'"),
        ("name: a\noptimizer: 3", [], "wrong value in .*int is not a subclass of Optimizer. value: 3"),
        ("name: a", ["layers=3"], "wrong value for 'layers'"),
        ("layers: [1]", [], "does not set name"),
        ("- a", [], "not a list"),
        ("name: [", [], "cannot read .* as YAML"),
        ("name: a", ["optimizer"], "write key=value"),
    ],
)
def test_a_bad_config_is_one_clear_error(write, text, overrides, message):
    with pytest.raises(UsageError, match=message) as error:
        load_config(Config, write(text), overrides)
    assert "\n" not in str(error.value) or "YAML" in message


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"no config file at .*nowhere"):
        load_config(Config, tmp_path / "nowhere.yaml")
