"""`starflow play`: a page in the browser with which a model is played."""

import os
from functools import partial
from pathlib import Path
from threading import Thread

import click

from starflow.cli.common import SEED, device_options, load_pipeline, require_extra, say, start_loading
from starflow.cli.serve import open_page
from starflow.cli.starts import check_start, load_starts, start_options


@click.command()
@click.argument("model", default="freedoom")
@click.option("--port", type=click.IntRange(0, 65535), default=8010, show_default=True, help="0 is any free port.")
@click.option("--no-open", is_flag=True, help="Do not open the browser.")
@click.option("--seed", type=SEED, help="Seed of the noise of each tab's first game. [default: random]")
@start_options
@device_options
def play(
    model: str,
    port: int,
    no_open: bool,
    seed: int | None,
    name: str | None,
    prompt: str | None,
    image: Path | None,
    clip: Path | None,
    device: str | None,
    dtype: str,
) -> None:
    """Play MODEL in the browser, with keyboard, touch screen or gamepad: by default the bundled game `freedoom`.

    Only this machine can reach the page.

    \b
    starflow play
    starflow play runs/freedoom-flow/final --start basic-000000
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a model that is small enough to be played is faster on one thread
    require_extra("play")
    check_start(name, image, clip)

    from starflow.serve.listening import bound, url_of
    from starflow.serve.settings import AccessSettings

    settings = AccessSettings(port=port)
    with bound(settings) as listener:
        say(f"the game is at {url_of(listener)}; Ctrl-C ends it")
        start_loading(model)
        if not no_open:  # the browser starts while the model is loaded, and then waits for it
            Thread(target=open_page, args=(url_of(listener),), daemon=True).start()

        from starflow.play.app import create_app, server_of
        from starflow.play.player import Player

        pipeline = load_pipeline(model, device, dtype)
        starts = load_starts(pipeline, model, name, prompt, image, clip)
        app = create_app(partial(Player, pipeline, Path(model).name, starts, seed), settings)
        server_of(app).run(sockets=[listener])
