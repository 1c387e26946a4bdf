"""The files of a job, in its folder.

fragments-1.mp4            while the video is made (for the second attempt, fragments-2.mp4)
video.mp4, thumbnail.webp, spritesheet.jpg       the finished video, renamed into place
image.png                  instead of these, of an image
given/NAME.safetensors     the frames of a picture or clip that is given, by the name of the pipeline's option
"""

from pathlib import Path

from starflow.media.files import remove
from starflow.serve.database import Job

FRAGMENTS = "fragments-*.mp4"
VARIANTS = {"video": "video.mp4", "thumbnail": "thumbnail.webp", "spritesheet": "spritesheet.jpg"}


def fragments_of(folder: Path, attempt: int) -> Path:
    """The growing video of an attempt."""
    return folder / f"fragments-{attempt}.mp4"


def inputs_of(folder: Path) -> list[Path]:
    """The frames that are given."""
    return sorted(folder.glob("given/*.safetensors"))


def size_of(folder: Path) -> int:
    """The bytes of a job's files; 0 if the job was deleted at this moment."""
    try:
        return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
    except FileNotFoundError:
        return 0


def remove_unneeded(job: Job, folder: Path) -> None:
    """Remove the files that a job which has ended no longer needs."""
    remove(folder / "given")
    if not job.settings.get("realtime"):  # else its session removes the fragments
        for path in folder.glob(FRAGMENTS):
            remove(path)
