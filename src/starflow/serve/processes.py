"""The processes of a server are forked from one that has imported torch, which is fast and shares its memory."""

import multiprocessing
from threading import Event, Thread

CONTEXT = multiprocessing.get_context("forkserver")
MODULES = ("starflow.serve.worker", "starflow.serve.decoding")


def choose_imports(*, lean: bool) -> None:
    """Say what the first process imports, before it starts: less if it is lean."""
    CONTEXT.set_forkserver_preload(["starflow.lean", *MODULES] if lean else [*MODULES])


def set_when_parent_dies(event: Event) -> None:
    """Set an event when the process that started this one is gone."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        event.set()

    Thread(target=wait, daemon=True).start()
