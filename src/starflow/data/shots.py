"""Cutting long files into shots, with PySceneDetect (the extra `shots`)."""

from importlib.util import find_spec

from starflow.errors import StarflowError
from starflow.media.reading import Video, corrupt_is_an_error


def require_scenedetect() -> None:
    """Raise StarflowError if PySceneDetect is not installed."""
    if find_spec("scenedetect") is None:
        raise StarflowError(
            "shots need the extra 'shots': in the repository, pip install -c constraints.txt -e '.[shots]'"
        )


def find_shots(video: Video) -> list[tuple[float, float]]:
    """The times of the first and the last frame of each shot of a file, in seconds.

    Cuts are found by the adaptive detector of PySceneDetect, which looks for jumps of the picture's content. A file
    without a cut is one shot.

    Raises StarflowError if the file is corrupt.
    """
    from scenedetect import AdaptiveDetector, detect

    with corrupt_is_an_error(video.path):
        shots = detect(str(video.path), AdaptiveDetector(), start_in_scene=True, backend="pyav")
    last = video.last_time()
    interval = 1 / video.fps
    return [(start.seconds, min(end.seconds - interval, last)) for start, end in shots] or [(0.0, last)]
