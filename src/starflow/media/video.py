"""Reading and writing videos and pictures: the functions that the other packages use.

A clip is a uint8 array (F, height, width, 3) in RGB, with a frame rate in frames per second, or 0 for a still image.
docs/media.md says what is read and written, and how.
"""

from starflow.media.reading import open_video, read_metadata, read_video
from starflow.media.sheet import contact_sheet
from starflow.media.writing import check_writable, write_frames, write_growing, write_video

__all__ = [
    "check_writable",
    "contact_sheet",
    "open_video",
    "read_metadata",
    "read_video",
    "write_frames",
    "write_growing",
    "write_video",
]
