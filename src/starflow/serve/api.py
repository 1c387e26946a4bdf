"""The HTTP API as an ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from starflow import __version__
from starflow.serve import others, page, realtime, videos
from starflow.serve.handlers import add_error_handlers
from starflow.serve.processes import choose_imports
from starflow.serve.schema import ErrorBody
from starflow.serve.security import Security
from starflow.serve.server import Server
from starflow.serve.settings import ServeSettings
from starflow.weights.models import is_quantized

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 409, 410, 413, 415, 421, 429, 500, 503)
}


def create_app(settings: ServeSettings) -> FastAPI:
    """The application. Its workers start and stop with it.

    Raises:
        UsageError: the database's URL is wrong, or the model cannot be fitted as the operator wants.
        StarflowError: there is no such model or LoRA, or the database cannot be reached.
    """
    server = Server.of(settings)
    choose_imports(lean=not (settings.loras or settings.fitting.quantize or is_quantized(settings.model)))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.supervisor.start()
        try:
            yield
        finally:
            await run_in_threadpool(server.supervisor.stop)
            server.store.close()

    # The pages of documentation would load scripts from elsewhere.
    app = FastAPI(title="starflow", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = server
    add_error_handlers(app)
    app.include_router(others.router, responses=ERRORS)  # before /v1/videos/{video_id}
    app.include_router(videos.router, responses=ERRORS)
    app.include_router(realtime.router)
    app.include_router(page.router)
    if settings.origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Security, settings=settings)
    return app
