"""One session that is played by messages: what a browser's tab sends, and the frames that it gets.

    client   action {action, id}      from the next step on; it replaces the one before, nothing is queued
             seen {index}             this message was shown: another step may be made
             say {prompt}, rewind {steps}, reset {start}, surprise {on}, save
    server   hello, error             as text
             frames, clip             binary: 4 bytes with the length of a JSON header, the header, and the data

The data of `frames` are RGB bytes `(f, height, width, 3)`, those of `clip` an MP4. Raw frames take no time to encode,
and a local connection carries them easily (`benchmarks/play.py` measures it).
"""

import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from starflow.errors import UsageError
from starflow.media.files import SOFTWARE
from starflow.media.frames import Frames
from starflow.media.video import write_video
from starflow.pipeline.actions import require_action_space
from starflow.pipeline.pipeline import StarFlowPipeline
from starflow.pipeline.session import Session
from starflow.pipeline.starts import Start
from starflow.play.controls import legend, neutral_action

NUM_AHEAD = 1  # messages with frames that the client may not have shown when another step begins
MAX_WAITING = 8  # commands
MAX_REWIND = 64  # steps
MAX_CLIP_BYTES = 2**26  # of the frames that can be saved: older ones are left out
MAX_SEED = 2**32


class Player:
    """A session and what its player wants.

    `take` is called with each message of the client. As long as `is_waiting` is false, `advance` makes the next message
    of the server. Both may be called from different threads, but `advance` only by one at a time.
    """

    def __init__(
        self, pipeline: StarFlowPipeline, model: str, starts: Sequence[Start], seed: int | None = None
    ) -> None:
        """Begin at the first of `starts`, with random noise if `seed` is None. Raises as `pipeline.session`."""
        self._pipeline, self._model, self._starts = pipeline, model, {start.name: start for start in starts}
        space = pipeline.flow.action_space
        self._action = (None if space is None else neutral_action(space), 0)  # and its id
        self._commands: deque[Callable[[], None]] = deque()
        self._sent = self._seen = 0
        self._shows_surprise = False
        self._begin(starts[0], seed)
        self._commands.append(lambda: None)  # shows the start

    # --- messages of the client --------------------------------------------------------------------------------------

    def take(self, message: Mapping[str, Any]) -> None:
        """Raises UsageError if it is no message, or asks for something that there is not."""
        match message:
            case {"type": "action", "action": action, "id": int(number)}:
                require_action_space(self._pipeline.flow).check([action], 1)
                self._action = (action, number)
            case {"type": "seen", "index": int(index)}:
                self._seen = min(index, self._sent)
            case {"type": "surprise", "on": bool(on)}:
                self._shows_surprise = on
            case {"type": "say", "prompt": str(prompt)}:
                self._add(partial(self._say, prompt))
            case {"type": "rewind", "steps": int(steps)} if steps > 0:
                self._add(partial(self._rewind, steps))
            case {"type": "reset", "start": str(name)} if name in self._starts:
                self._add(partial(self._begin, self._starts[name], None))
            case _:
                raise UsageError(f"this is no message of a player: {json.dumps(message):.80}")

    def _add(self, command: Callable[[], None]) -> None:
        if len(self._commands) >= MAX_WAITING:
            raise UsageError("too much at once: wait for the next picture")
        self._commands.append(command)

    # --- messages of the server --------------------------------------------------------------------------------------

    def hello(self) -> dict[str, Any]:
        """What the page needs to know, before the first frames."""
        height, width = self.session.frames.shape[1:3]
        about = {"type": "hello", "model": self._model, "width": width, "height": height, "fps": self.session.fps}
        about |= {"frames_per_step": self.session.frames_per_step, "starts": list(self._starts)}
        return about | legend(self._pipeline.flow.action_space)

    @property
    def is_waiting(self) -> bool:
        """Whether the client has to show frames, or to ask for something, before `advance` may be called."""
        return not self._commands and self._sent - self._seen > NUM_AHEAD

    @property
    def seconds_per_step(self) -> float:
        """Of the video."""
        return self.session.frames_per_step / self.session.fps

    def advance(self) -> bytes:
        """Do what was asked for, or make a step with the newest action: a message with the frames.

        Raises StarflowError if the sample has NaN.
        """
        action, number = self._action
        start = time.perf_counter()
        if self._commands:
            self._commands.popleft()()
        else:
            self._recorded.append(self.session.step(action))
        seconds = time.perf_counter() - start
        surprise = self.session.surprise().tolist() if self._shows_surprise and self.session.num_undoable else None
        self._sent += 1
        frames = self.session.frames
        about = {"index": self._sent, "action": number, "prompt": self._prompt, "seed": self._seed}
        about |= {"shape": frames.shape[:3], "milliseconds": round(1000 * seconds, 1), "surprise": surprise}
        return packed({"type": "frames"} | about, frames.tobytes())

    def clip(self) -> bytes:
        """A message with the frames since the start as an MP4, or with as many of the last ones as are kept."""
        frames = np.concatenate(list(self._recorded))
        about = {"software": SOFTWARE, "model": self._model, "prompt": self._prompt, "seed": self._seed}
        with TemporaryDirectory() as folder:
            path = write_video(Path(folder, "clip.mp4"), frames, self.session.fps, about)
            return packed({"type": "clip", "name": f"{self._model}-{self._seed}.mp4"}, path.read_bytes())

    # --- commands ----------------------------------------------------------------------------------------------------

    def _begin(self, start: Start, seed: int | None) -> None:
        self._seed = secrets.randbelow(MAX_SEED) if seed is None else seed
        generator = torch.Generator().manual_seed(self._seed)
        self.session: Session = start.session(self._pipeline, generator=generator, max_rewind=MAX_REWIND)
        self._prompt, first = start.prompt, self.session.frames
        step_bytes = self.session.frames_per_step * first[0].nbytes
        self._recorded: deque[Frames] = deque([first], maxlen=max(MAX_REWIND + 1, MAX_CLIP_BYTES // step_bytes))

    def _say(self, prompt: str) -> None:
        self.session.say(prompt)
        self._prompt = prompt

    def _rewind(self, num_steps: int) -> None:
        """As far as it is possible."""
        num_steps = min(num_steps, self.session.num_undoable)
        self.session.rewind(num_steps)
        for _ in range(num_steps):
            self._recorded.pop()


def packed(header: Mapping[str, Any], data: bytes) -> bytes:
    """A binary message."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(4, "little") + text + data
