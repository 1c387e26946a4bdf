"""How the API answers errors."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from starflow.errors import StarflowError
from starflow.serve.errors import RETRY_SECONDS, ApiError, of_validation

logger = logging.getLogger(__name__)


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
