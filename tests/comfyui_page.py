"""ComfyUI's own page with our nodes, from the PyPI package `comfyui-frontend-package` (1.58.1).

ComfyUI itself is on no package index. A small server stands in for it, which describes the nodes and answers nothing
else. `PYTHONPATH=benchmarks python tests/comfyui_page.py` makes the picture of the workflow.
"""

import importlib.util
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import uvicorn
from playwright.sync_api import Page
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from browser_helpers import chromium

FOLDER = Path(__file__).parents[1] / "integrations" / "comfyui"
COMBO = (["auto"],)


class CreateVideo:
    """ComfyUI's node of this name."""

    RETURN_TYPES = RETURN_NAMES = ("VIDEO",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        required = {"images": ("IMAGE",), "fps": ("FLOAT", {"default": 30.0, "min": 1.0, "max": 120.0})}
        return {"required": required, "optional": {"audio": ("AUDIO",)}}


class SaveVideo:
    """ComfyUI's node of this name."""

    RETURN_TYPES = RETURN_NAMES = ()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"video": ("VIDEO",), "filename_prefix": ("STRING", {}), "format": COMBO, "codec": COMBO}}


THEIRS = (CreateVideo, SaveVideo)


def load_nodes() -> ModuleType:
    """The package of nodes, imported from its folder as ComfyUI's loader does."""
    spec = importlib.util.spec_from_file_location(
        "starflow_nodes", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["starflow_nodes"] = module
    spec.loader.exec_module(module)
    return module


def described(name: str, node: Any, title: str) -> dict[str, Any]:
    """A node, as ComfyUI's `/object_info` describes it."""
    inputs = node.INPUT_TYPES()
    return {
        "name": name,
        "display_name": title,
        "description": "",
        "category": getattr(node, "CATEGORY", "video"),
        "python_module": "nodes" if node in THEIRS else "custom_nodes.starflow",
        "input": inputs,
        "input_order": {kind: list(names) for kind, names in inputs.items()},
        "output": node.RETURN_TYPES,
        "output_name": node.RETURN_NAMES,
        "output_is_list": [False] * len(node.RETURN_TYPES),
        "output_node": not node.RETURN_TYPES,
    }


def stand_in(nodes: ModuleType) -> Starlette:
    """A server of ComfyUI's page, with our nodes and those of ComfyUI in the workflow."""
    import comfyui_frontend_package

    titles = nodes.NODE_DISPLAY_NAME_MAPPINGS | {"CreateVideo": "Create Video", "SaveVideo": "Save Video"}
    classes = nodes.NODE_CLASS_MAPPINGS | {node.__name__: node for node in THEIRS}
    answers: dict[str, Any] = {
        "object_info": {name: described(name, node, titles[name]) for name, node in classes.items()},
        "settings": {
            "Comfy.TutorialCompleted": True,
            "Comfy.UseNewMenu": "Top",
            "Comfy.Graph.CanvasInfo": False,
            "Comfy.Minimap.Visible": False,
        },
        "users": {"storage": "server", "migrated": True},
        **{name: [] for name in ("extensions", "embeddings", "userdata", "experiment/models")},
        **{name: {} for name in ("i18n", "features", "history", "global_subgraphs")},
    }

    async def answer(request: Request) -> JSONResponse:
        path = request.path_params["path"]
        return JSONResponse(answers.get(path, {}), 200 if path in answers else 404)

    async def listen(socket: WebSocket) -> None:
        await socket.accept()
        async for _ in socket.iter_text():
            pass

    files = Path(comfyui_frontend_package.__file__).with_name("static")
    return Starlette(
        routes=[
            WebSocketRoute("/ws", listen),
            Route("/api/{path:path}", answer, methods=["GET", "POST"]),
            Mount("/", StaticFiles(directory=files, html=True)),
        ]
    )


@contextmanager
def workflow_page(nodes: ModuleType) -> Iterator[Page]:
    """The page with the workflow, in Chromium. It loads nothing from elsewhere."""
    with socket.create_server(("127.0.0.1", 0)) as listener, chromium() as browser:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(stand_in(nodes), log_level="error"))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 480})
            page.route(lambda address: not address.startswith(url), lambda route: route.abort())
            page.goto(url)
            page.wait_for_function("window.app?.vueAppReady && window.app.graph", timeout=120_000)
            page.evaluate("workflow => app.loadGraphData(workflow)", json.loads((FOLDER / "workflow.json").read_text()))
            yield page
            page.close()
        finally:
            server.should_exit = True
            thread.join()


def main() -> None:
    """Take the picture."""
    with workflow_page(load_nodes()) as page:
        page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        page.wait_for_timeout(3000)  # until the view has moved
        page.screenshot(path=FOLDER / "workflow.png")


if __name__ == "__main__":
    main()
