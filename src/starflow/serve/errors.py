"""Errors of the API, in the shape of OpenAI's: `{"error": {"message", "type", "param", "code"}}`."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from starflow.errors import StarflowError

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2


class ApiError(Exception):
    """What the client gets: a status, a message, the parameter that is wrong, a code, and seconds to wait."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, wait: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.wait = status, message, param, code, wait

    @property
    def type(self) -> str:
        """The kind of error: what the client's library raises depends on the status, not on this."""
        if self.status == 401:
            return "authentication_error"
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"

    def body(self) -> dict[str, Any]:
        """The JSON of the error."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer."""
        headers = {} if self.wait is None else {"Retry-After": str(self.wait)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def of_validation(errors: Any) -> ApiError:
    """The first error of pydantic, in one line."""
    first = errors[0]
    param = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path")) or None
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{param}: {message}" if param else message, param=param, code="invalid_value")


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error in the shape of OpenAI's."""

    @app.exception_handler(ApiError)
    async def _(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(StarflowError)
    async def _(request: Request, error: StarflowError) -> JSONResponse:
        return ApiError(400, str(error), code="invalid_value").response()

    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ValidationError)
    async def _(request: Request, error: RequestValidationError | ValidationError) -> JSONResponse:
        return of_validation(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> JSONResponse:
        return ApiError(error.status_code, str(error.detail)).response()

    @app.exception_handler(Exception)
    async def _(request: Request, error: Exception) -> JSONResponse:
        return ApiError(500, "the server failed", code="internal_error").response()

    @app.exception_handler(SQLAlchemyError)
    async def _(request: Request, error: SQLAlchemyError) -> JSONResponse:
        logger.error("the database does not answer", exc_info=error)
        return ApiError(
            503, "the database does not answer: try again", code="no_database", wait=RETRY_SECONDS
        ).response()
