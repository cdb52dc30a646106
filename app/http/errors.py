"""The one error envelope, and the one table of what an error means in HTTP."""

from __future__ import annotations

import logging
from typing import Any, cast

from flask import Flask, Response, jsonify
from werkzeug.exceptions import HTTPException

from app import db
from app.errors import (
    Conflict,
    Forbidden,
    IdempotencyKeyReused,
    Invalid,
    NotFound,
    OkuruError,
    TooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)
from app.http.context import request_id

log = logging.getLogger(__name__)

STATUS: dict[type[OkuruError], int] = {
    Invalid: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    UnsupportedMediaType: 415,
    IdempotencyKeyReused: 422,
}

#: What the framework itself refuses: status -> code.
FRAMEWORK_CODES = {
    400: "VALIDATION_ERROR",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
}

#: How a caller without credentials is asked for them.
CHALLENGE = 'ApiKey realm="okuru"'

#: Seconds after which a caller may try again when the database is gone or busy.
RETRY_AFTER = 2


def install(app: Flask) -> None:
    app.register_error_handler(OkuruError, _refused)
    app.register_error_handler(HTTPException, _refused_by_framework)
    for error in db.OUTAGE_ERRORS:
        app.register_error_handler(error, _unavailable)
    app.register_error_handler(Exception, _unexpected)


def status_of(error: OkuruError) -> int:
    """The status of the nearest family: a domain's own error is named under its family."""
    return next(STATUS[family] for family in type(error).__mro__ if family in STATUS)


def envelope(
    status: int, code: str, message: str, details: dict[str, Any] | None = None
) -> Response:
    error: dict[str, Any] = {"code": code, "message": message}
    if details:
        error["details"] = details
    response = jsonify({"error": error, "request_id": request_id()})
    response.status_code = status
    return response


def _refused(error: OkuruError) -> Response:
    response = envelope(status_of(error), error.code, error.message, dict(error.details))
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = CHALLENGE
    return response


def _refused_by_framework(error: HTTPException) -> Response:
    status = error.code or 500
    if 300 <= status < 400:  # a redirect that routing asked for
        return cast("Response", error.get_response())
    if status >= 500:
        return _unexpected(error)
    code = FRAMEWORK_CODES.get(status, "VALIDATION_ERROR")
    response = envelope(status, code, _sentence(status))
    if status == 405:
        response.headers["Allow"] = error.get_response().headers["Allow"]
    return response


def _unavailable(error: Exception) -> Response:
    log.warning(
        "database unavailable",
        extra={"error_code": "UNAVAILABLE", "error_message": _summary(error)},
    )
    response = envelope(503, "UNAVAILABLE", "the service is busy or recovering: try again")
    response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


def _unexpected(error: Exception) -> Response:
    log.error("unexpected error", exc_info=error, extra={"error_code": "INTERNAL_ERROR"})
    return envelope(500, "INTERNAL_ERROR", "something went wrong on our side")


def _sentence(status: int) -> str:
    return {
        404: "no such resource",
        405: "this resource does not answer that method",
        413: "the body is too large",
    }.get(status, "the request cannot be read")


def _summary(error: Exception) -> str:
    """The first line: what the driver says, without the statement that SQLAlchemy appends."""
    return str(error).partition("\n")[0]
