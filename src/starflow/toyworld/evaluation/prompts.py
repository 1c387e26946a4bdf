"""Captions for a model to follow, each with a scene that fits it, and held-out clips."""

from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from starflow.errors import StarflowError, UsageError
from starflow.toyworld.source import Toyworld
from starflow.toyworld.world.captions import caption, parse
from starflow.toyworld.world.grammar import Description, ObjectDescription
from starflow.toyworld.world.scene import REACH, Scene, SceneObject, sample_scene, track
from starflow.toyworld.world.vocabulary import NUM_FRAMES

MAX_OBJECTS = 2
PLACEMENT_TRIES = 40


@dataclass(frozen=True)
class Prompt:
    """A caption, what it says, and a scene that fits it."""

    caption: str
    description: Description
    scene: Scene


def held_out_clips(seed: int, num_clips: int) -> Toyworld:
    """The first clips of the test split, with one or two objects in combinations that training never shows."""
    return Toyworld(num_clips, seed, split="test", paraphrases=1)


def held_out_prompts(seed: int, num_prompts: int, num_objects: int) -> list[Prompt]:
    """Captions of the test split, with combinations, and often phrases, that training never shows."""
    prompts = []
    for index in range(num_prompts):
        rng = np.random.default_rng([seed, num_objects, index])
        scene = sample_scene(rng, split="test", num_objects=num_objects)
        text = caption(scene, rng, "test")
        prompts.append(Prompt(text, parse(text), scene))
    return prompts


def read_prompts(path: Path, seed: int) -> list[Prompt]:
    """The captions in a text file, one per line. Blank lines and lines that begin with # are skipped.

    Raises:
        UsageError: a caption is not in the grammar or has too many objects; the file has no captions or is not text.
        OSError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a text file") from None
    prompts = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            description = parse(text)
        except StarflowError as error:
            raise UsageError(f"{path}, line {number}: {error}") from None
        if len(description.objects) > MAX_OBJECTS:
            raise UsageError(f"{path}, line {number}: a toyworld clip has at most {MAX_OBJECTS} objects: {text!r}")
        prompts.append(Prompt(text, description, scene_of(description, np.random.default_rng([seed, number]))))
    if not prompts:
        raise UsageError(f"{path} holds no captions: write one per line")
    return prompts


def scene_of(description: Description, rng: np.random.Generator) -> Scene:
    """A scene that fits a description; what the description leaves open is drawn at random.

    Two objects are drawn several times, and those that stay apart longest are taken: some cannot stay apart throughout.
    """
    num_tries = PLACEMENT_TRIES if len(description.objects) > 1 else 1
    tries = [tuple(_draw(said, rng) for said in description.objects) for _ in range(num_tries)]
    background = description.background or sample_scene(rng, split="train", num_objects=1).background
    return Scene(max(tries, key=_share_apart), background)


def _draw(said: ObjectDescription, rng: np.random.Generator) -> SceneObject:
    """An object as described. Its place depends on motion and size, so objects are drawn until these fit."""
    while True:
        (item,) = sample_scene(rng, split="train", num_objects=1).objects
        if said.motion in (None, item.motion) and said.size in (None, item.size):
            return replace(item, color=said.color or item.color, shape=said.shape)


def _share_apart(objects: tuple[SceneObject, ...]) -> float:
    """The share of frames in which the bounding boxes of all objects are apart."""
    apart = np.ones(NUM_FRAMES, dtype=bool)
    for one, two in combinations([track(item) for item in objects], 2):
        apart &= np.abs(one[:, :2] - two[:, :2]).max(axis=1) > REACH * (one[:, 2] + two[:, 2])
    return float(apart.mean())
