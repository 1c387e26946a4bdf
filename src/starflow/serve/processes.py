"""The processes of a server are forked from one that has imported torch, which is fast and shares its memory."""

import multiprocessing
from threading import Event, Thread

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["starflow.serve.worker", "starflow.serve.decoding"])


def set_when_parent_dies(event: Event) -> None:
    """Set an event when the process that started this one is gone."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        event.set()

    Thread(target=wait, daemon=True).start()
