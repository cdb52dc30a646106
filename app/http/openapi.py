"""The OpenAPI document and its Swagger UI, from packaged assets."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Any

import flask_swagger_ui
import marshmallow as ma
from flask import Blueprint, Flask, Response, redirect, send_from_directory
from flask.typing import ResponseReturnValue
from flask_smorest import Api

from app.http.blueprint import REQUEST_ID
from app.http.errors import CHALLENGE, FRAMEWORK_CODES, RETRY_AFTER, STATUS

ASSETS = Path(flask_swagger_ui.__file__).parent / "dist"

DESCRIPTION = """\
What must be sent exactly once: gifts, background jobs, messages of other systems.

**Authentication.** Every route but health and these docs needs a key: send it as `X-API-Key`. An
operator makes one with `okuru keys create`; it is shown once and can be revoked. A key acts for
one account and sees only that account's rows: another account's row answers 403. On the local
stack (`ENVIRONMENT=local`) a request without a key acts as the built-in local operator.

**Sending once.** `POST /gifts/{gift_id}/send` needs an `Idempotency-Key` of the caller's choice.
The same key may be sent again at any time, for ever: the answer is the first one's, and nothing is
sent a second time. A different key for a gift that was already queued answers 409.

**Errors** have one shape; `error.code` is meant for programs. `request_id` is the Idempotency-Key
if one was sent, else the `X-Request-ID`; quote it when you ask for help. After 503 and 429 wait
for `Retry-After` seconds and send the same request again.

Every path is also served under `/api/v1`.
"""

blueprint = Blueprint("docs", __name__)


class ErrorBody(ma.Schema):
    code = ma.fields.String(required=True, metadata={"example": "NOT_FOUND"})
    message = ma.fields.String(required=True, metadata={"example": "gift not found"})
    details = ma.fields.Dict(
        keys=ma.fields.String(), metadata={"description": "What was wrong, by field."}
    )


class ErrorEnvelope(ma.Schema):
    error = ma.fields.Nested(ErrorBody, required=True)
    request_id = ma.fields.String(required=True)


class Documented(Api):
    """flask-smorest's Api, with our envelope in place of its own."""

    ERROR_SCHEMA = ErrorEnvelope
    DEFAULT_ERROR_RESPONSE_NAME = None  # each route names its refusals: Blueprint.refuses()

    def _register_error_handlers(self) -> None:
        """Errors are `app/http/errors.py`'s."""

    def _register_responses(self) -> None:
        self.spec.components.schema("ErrorEnvelope", schema=ErrorEnvelope)
        for status, code in _codes().items():
            self.spec.components.response(
                HTTPStatus(status).name, _response(status, code), lazy=True
            )


def install(app: Flask) -> Api:
    app.config.update(
        API_TITLE="Okuru",
        API_VERSION="v1",
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/",
        OPENAPI_SWAGGER_UI_PATH="/docs",
        OPENAPI_SWAGGER_UI_URL="/docs/assets/",
        API_SPEC_OPTIONS={
            "info": {"description": DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}},
            "servers": [{"url": "/"}, {"url": "/api/v1"}],
            "security": [{"apiKey": []}],
        },
    )
    api = Documented(app)
    api.spec.components.security_scheme(
        "apiKey",
        {
            "type": "apiKey",
            "in": "header",
            "name": "X-API-Key",
            "description": "Made by `okuru keys create`, shown once.",
        },
    )
    app.register_blueprint(blueprint)
    return api


@blueprint.get("/docs/assets/<path:name>")
def asset(name: str) -> Response:
    return send_from_directory(ASSETS, name, max_age=3600)


@blueprint.get("/swagger")
@blueprint.get("/swagger/")
def swagger() -> ResponseReturnValue:
    return redirect("/docs")


def _codes() -> dict[int, str]:
    families = {status: family.code for family, status in STATUS.items()}
    return {**FRAMEWORK_CODES, **families, 503: "UNAVAILABLE"}


def _response(status: int, code: str) -> dict[str, Any]:
    headers: dict[str, Any] = dict(REQUEST_ID)
    if status == 401:
        headers["WWW-Authenticate"] = {"schema": {"type": "string"}, "example": CHALLENGE}
    if status == 503:
        headers["Retry-After"] = {
            "schema": {"type": "integer"},
            "description": "Seconds to wait before the same request is sent again.",
            "example": RETRY_AFTER,
        }
    return {
        "description": HTTPStatus(status).phrase,
        "headers": headers,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/ErrorEnvelope"},
                "example": {
                    "error": {"code": code, "message": HTTPStatus(status).phrase.lower()},
                    "request_id": "3f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a11",
                },
            }
        },
    }
