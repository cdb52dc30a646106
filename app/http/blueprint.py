"""How a route reads its arguments and documents its refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, ClassVar, NoReturn

import marshmallow as ma
from flask import Request
from flask_smorest import Blueprint as SmorestBlueprint
from marshmallow import RAISE
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import HTTPException

from app import strict_json
from app.errors import Invalid, UnsupportedMediaType
from app.http.context import check_size

#: Every answer has it.
REQUEST_ID = {
    "X-Request-ID": {
        "schema": {"type": "string"},
        "description": "Finds this request in the logs.",
        "example": "order-2026-0001",
    }
}


#: A 201 has it.
LOCATION = {"Location": {"schema": {"type": "string"}, "description": "Where the new row is."}}


class Parser(FlaskParser):
    """Strict: unknown fields, duplicate keys, NaN and bytes that are no UTF-8 are refused."""

    DEFAULT_VALIDATION_STATUS = 400
    DEFAULT_UNKNOWN_BY_LOCATION: ClassVar[dict[str, str | None]] = {
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        "json": RAISE,
        "query": RAISE,
    }

    def load_json(self, req: Request, _schema: ma.Schema) -> Any:
        if not req.is_json:
            raise UnsupportedMediaType("send JSON, with Content-Type: application/json")
        data = _body(req)
        check_size(len(data))
        return strict_json.parse(data)

    def handle_error(
        self,
        error: ma.ValidationError,
        req: Request,
        schema: ma.Schema,
        *,
        error_status_code: int | None,
        error_headers: Mapping[str, str] | None,
    ) -> NoReturn:
        # {"json": {field: [messages]}}: callers know where they put what.
        ((_location, fields),) = error.normalized_messages().items()  # type: ignore[no-untyped-call]
        raise Invalid("the request is not valid: see details", details=fields)


class Blueprint(SmorestBlueprint):
    ARGUMENTS_PARSER = Parser()

    def refuses(self, *statuses: int) -> Callable[[Any], Any]:
        """Document these refusals, and those that every route shares."""

        def decorate(view: Any) -> Any:
            for status in {*statuses, 401, 503}:
                view = self.alt_response(status, response=HTTPStatus(status).name)(view)
            return view

        return decorate

    @staticmethod
    def _prepare_response_doc(
        doc: dict[str, Any], doc_info: dict[str, Any], **context: Any
    ) -> dict[str, Any]:
        for answers in doc_info.get("response", {}).get("responses", {}).values():
            for answer in answers:
                if isinstance(answer, dict):  # and not the name of a refusal
                    answer["headers"] = {**REQUEST_ID, **answer.get("headers", {})}
        prepared: dict[str, Any] = SmorestBlueprint._prepare_response_doc(doc, doc_info, **context)
        return prepared


def _body(req: Request) -> bytes:
    """The whole body.

    Raises:
        Invalid: its chunks cannot be read. Each server has errors of its own for that.
    """
    try:
        return req.get_data()
    except HTTPException:
        raise
    except Exception:  # noqa: BLE001 - see above
        raise Invalid("the body cannot be read") from None
