"""How right is the toyworld checker? Reads rendered clips of the test split, clean and degraded, and shuffled captions.

    python benchmarks/checker.py [--clips 500]

Prints the percentage of clips in which an attribute is read correctly for every object; "all" means all attributes, the
number of objects and the background. "shuffled" compares each clip with the next one's caption, and "chance" is how
often two captions agree. "ms" is the processor time for a clip.
"""

import io
import time
from collections.abc import Callable, Sequence

import av
import numpy as np
from scipy import ndimage

import harness
from starflow.media.frames import Frames
from starflow.toyworld.reader.checker import ATTRIBUTES, check
from starflow.toyworld.world.captions import describe_scene
from starflow.toyworld.world.grammar import Description
from starflow.toyworld.world.render import render
from starflow.toyworld.world.scene import Scene, sample_scene
from starflow.toyworld.world.vocabulary import FPS

COLUMNS = (*ATTRIBUTES, "count", "background", "all")


def blur_and_noise(clip: Frames, sigma: float, noise: float, seed: int) -> Frames:
    """Gaussian blur with a standard deviation of `sigma` px in each frame, then white noise of `noise` gray values."""
    blurred = ndimage.gaussian_filter(clip.astype(np.float32), (0, sigma, sigma, 0))
    noisy = blurred + np.random.default_rng(seed).normal(0, noise, clip.shape)
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)


def through_h264(clip: Frames) -> Frames:
    """A clip after H.264 compression with the usual settings (4:2:0, rate factor 23)."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23"})
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer, "r") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)


def judge(clip: Frames, description: Description) -> list[bool]:
    """Whether each of `COLUMNS` is read correctly in one clip."""
    result = check(clip, description)
    attributes = [all(getattr(item, name) for item in result.objects) for name in ATTRIBUTES]
    return [*attributes, result.count, bool(result.background), result.all_correct]


def agree(one: Description, other: Description) -> list[bool]:
    """Whether two descriptions agree in each of `COLUMNS`, with objects paired in the order that agrees best."""
    pairings = [list(zip(one.objects, objects, strict=True)) for objects in (other.objects, other.objects[::-1])]
    matches = [[[getattr(a, name) == getattr(b, name) for a, b in pairs] for name in ATTRIBUTES] for pairs in pairings]
    best = max(matches, key=lambda rows: sum(map(sum, rows)))
    attributes = [all(row) for row in best]
    background = one.background == other.background
    return [*attributes, True, background, all(attributes) and background]


def print_row(name: str, judged: Sequence[Sequence[bool]], seconds: float | None = None) -> None:
    """One line of the table."""
    shares = "".join(f"{100 * share:11.1f}" for share in np.mean(judged, axis=0))
    print(f"{name:<34}{shares}" + ("" if seconds is None else f"{1000 * seconds / len(judged):9.1f}"))


def measure(scenes: Sequence[Scene], name: str) -> None:
    """Print the rows for one set of scenes."""
    said = [describe_scene(scene) for scene in scenes]
    clean = [render(scene) for scene in scenes]
    degradations: dict[str, Callable[[int, Frames], Frames]] = {
        "clean": lambda _, clip: clip,
        "blur 1 px, noise 6/255": lambda i, clip: blur_and_noise(clip, 1.0, 6.0, seed=i),
        "blur 2 px, noise 6/255": lambda i, clip: blur_and_noise(clip, 2.0, 6.0, seed=i),
        "H.264": lambda _, clip: through_h264(clip),
    }
    for label, degrade in degradations.items():
        clips = [degrade(i, clip) for i, clip in enumerate(clean)]
        start = time.process_time()
        judged = [judge(clip, description) for clip, description in zip(clips, said, strict=True)]
        print_row(f"{name}, {label}", judged, time.process_time() - start)
    shifted = said[1:] + said[:1]
    print_row(f"{name}, shuffled", [judge(clip, other) for clip, other in zip(clean, shifted, strict=True)])
    print_row(f"{name}, chance", [agree(one, other) for one, other in zip(said, shifted, strict=True)])


def main(args: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = harness.new_parser(__doc__)
    parser.add_argument("--clips", type=int, default=500, help="clips per row")
    arguments = parser.parse_args(args)
    print(f"{'percent of clips':<34}" + "".join(f"{column:>11}" for column in COLUMNS) + f"{'ms':>9}")
    for num_objects, name in ((1, "one object"), (2, "two objects")):
        rngs = [np.random.default_rng([2024, i, num_objects]) for i in range(arguments.clips)]
        measure([sample_scene(rng, split="test", num_objects=num_objects) for rng in rngs], name)


if __name__ == "__main__":
    harness.run(main)
