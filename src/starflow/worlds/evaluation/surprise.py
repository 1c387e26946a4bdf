"""Whether the flow is surprised by a frame that another action would have led to.

At one frame of each clip, the game is played again up to there, and then with another action. The surprise is the
negative log-likelihood of the frame given the frames and actions before it, and the action that was said.

Legend: `n` frames, `F` frames of a clip.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from starflow.errors import StarflowError
from starflow.evaluation.clips import batches
from starflow.evaluation.contract import Card, Measured
from starflow.evaluation.metrics.likelihood import TOKENS_AT_ONCE
from starflow.evaluation.statistics import bootstrap, bootstrap_mean
from starflow.flow.loss import add_noise
from starflow.likelihood.score import deep_log_likelihood, shallow_log_det
from starflow.media.frames import Frames, to_tensor
from starflow.pipeline.actions import encode_actions
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.sampling.solvers import require_finite
from starflow.worlds.episodes import Episode, replay
from starflow.worlds.evaluation.clips import CONTEXT, GameClips
from starflow.worlds.evaluation.material import Material
from starflow.worlds.game import ACTION_SPACE, Action, Game

NEEDED = {"move": "MOVE_LEFT", "turn": "TURN_LEFT", "attack": "ATTACK"}  # a button of each component
NUM_SHOWN = 2  # of each component


def evaluate_surprise(material: Material) -> Measured:
    """Measure the surprise at the frame after the context of each clip, and at the one that another action leads to.

    Returns:
        For each component of the action, None if no scenario has it: `num_frames`; `auroc`; and `larger`, the share of
        the frames that surprise less than the other one of the same past. `likelihood`: see `evaluate_likelihood`.

    Raises:
        StarflowError: the episodes were recorded with another version of the game, or a likelihood is not finite.
    """
    clips = GameClips(material.clips.episodes, material.clips.starts, CONTEXT + 1)
    results: dict[str, Any] = dict.fromkeys(Action._fields)
    cards: list[Card] = []
    for part, name in enumerate(Action._fields):
        others = dict(other_frames(clips, part, material.settings.seed))
        if not others:
            continue
        kept = sorted(others)
        true = GameClips([clips.episodes[row] for row in kept], [clips.starts[row] for row in kept], clips.num_frames)
        swapped = true.frames.copy()
        swapped[:, -1] = [others[row] for row in kept]
        nats, other_nats = (
            frame_surprise(material.pipeline, frames, true.captions, true.actions, material.settings.seed)[:, -1]
            for frames in (true.frames, swapped)
        )
        results[name] = detection(other_nats, nats, true.names)
        cards += [
            Card(f"{caption}: another {name}", {"true": frames[-1:], "other": other[-1:]})
            for caption, frames, other in zip(true.captions, true.frames[:NUM_SHOWN], swapped, strict=False)
        ]
    results["likelihood"] = evaluate_likelihood(material)
    return Measured(results, cards)


def detection(other: NDArray[np.float32], true: NDArray[np.float32], names: NDArray[np.str_]) -> dict[str, Any]:
    """The results for surprises `(n,)` at frames of another action and at the true ones."""
    # The area under the ROC curve is the share of pairs in which the other frame is the more surprising one.
    won = np.heaviside(other[:, None] - true, 0.5)
    return {
        "num_frames": len(true),
        "auroc": bootstrap(lambda rows: float(won[np.ix_(rows, rows)].mean()), names),
        "larger": bootstrap_mean(other > true, names),
    }


def other_frames(clips: GameClips, part: int, seed: int) -> Iterator[tuple[int, Frames]]:
    """For each clip whose scenario has a component of the action: what another choice shows as the last frame.

    Yields the number of the clip and the frame `(64, 64, 3)`. A clip is left out if this frame does not differ, if the
    episode ends with it, or if the game shows another past: the gun's flash sometimes comes a frame earlier or later,
    depending on what was played before.

    Raises StarflowError if the game takes another course than the episodes.
    """
    rng = np.random.default_rng(seed)
    for scenario in np.unique(clips.scenarios):
        with Game(str(scenario)) as game:
            if NEEDED[Action._fields[part]] not in game.buttons:
                continue
            for row in np.flatnonzero(clips.scenarios == scenario).tolist():
                episode, last = clips.episodes[row], clips.starts[row] + clips.num_frames - 1
                size = ACTION_SPACE.sizes[part]
                actions = episode.actions[: last + 1].copy()
                actions[-1, part] = (actions[-1, part] + rng.integers(1, size)) % size
                other = _replayed(game, episode, actions)
                if (
                    len(other) > last
                    and np.array_equal(other[:last], episode.frames[:last])
                    and not np.array_equal(other[last], episode.frames[last])
                ):
                    yield row, other[last]


def _replayed(game: Game, episode: Episode, actions: NDArray[np.uint8]) -> Frames:
    """The frames of an episode with actions of which only the last may differ."""
    other = replay(game, episode.seed, actions)
    past = len(actions) - 1
    if not np.array_equal(other.poses[:past], episode.poses[:past]):
        raise StarflowError(
            f"the episode {episode.scenario} {episode.seed} was recorded with another version of the game: record it "
            "anew with `starflow record`"
        )
    return other.frames


def evaluate_likelihood(material: Material) -> dict[str, Any] | None:
    """Negative log-likelihood in nats per dimension of clips as long as in training, without their first frame.

    Returns:
        `num_clips`; `true`, with the player's actions; `other`, with those of another clip; and `none`. None if no
        episode is long enough.
    """
    pipeline = material.pipeline
    clips = material.clips.excerpts((0,), pipeline.config.num_frames)
    if not len(clips):
        return None
    num_dims = np.prod(pipeline.codec.latent_shape(1, 1, *clips.frames.shape[2:4]))
    results: dict[str, Any] = {"num_clips": len(clips)}
    for name, actions in (("true", clips.actions), ("other", np.roll(clips.actions, 1, axis=0)), ("none", None)):
        frames = frame_surprise(pipeline, clips.frames, clips.captions, actions, material.settings.seed)
        nats = frames[:, 1:].mean(axis=1) / num_dims
        results[name] = bootstrap_mean(nats, clips.names)
    return results


def frame_surprise(
    pipeline: StarFlowPipeline, frames: Frames, captions: list[str], actions: NDArray[Any] | None, seed: int
) -> NDArray[np.float32]:
    """Negative log-likelihood in nats of each frame `(n, F)` of clips `(n, F, 64, 64, 3)`.

    `actions` are `(n, F, A)`, or None if they are not known. The same seed gives the same noise.
    """
    pieces = []
    for batch in batches(pipeline, len(frames), TOKENS_AT_ONCE):
        noise = torch.Generator().manual_seed(seed)
        x = add_noise(pipeline.codec.encode(to_tensor(frames[batch])), pipeline.config.noise_std, noise)
        text = pipeline.encode_prompt(captions[batch], pipeline.config.fps)
        known = None if actions is None else actions[batch]
        features = encode_actions(pipeline.flow, pipeline.codec, known, len(x), frames.shape[1])
        u, log_det = shallow_log_det(pipeline.flow, x)
        pieces.append(-(deep_log_likelihood(pipeline.flow, u, text, features) + log_det).sum(dim=(2, 3)))
    return require_finite(torch.cat(pieces), "the likelihood").cpu().numpy()
