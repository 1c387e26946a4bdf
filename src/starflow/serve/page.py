"""The page for browsers, and its files."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from starflow.serve.errors import ApiError

WEB = Path(__file__).with_name("web")
FILES = {path.name: path for path in WEB.iterdir()}
CHECKED = {"Cache-Control": "no-cache"}  # browsers ask whether a file has changed, so that they never mix versions

router = APIRouter(include_in_schema=False)


@router.get("/")
def page() -> FileResponse:
    """The page."""
    return FileResponse(FILES["index.html"], headers=CHECKED)


@router.get("/page/{name}")
def file(name: str) -> FileResponse:
    """A file of the page."""
    if name not in FILES:
        raise ApiError(404, f"there is no file {name!r}", code="not_found")
    return FileResponse(FILES[name], headers=CHECKED)
