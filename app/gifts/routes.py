"""`/gifts`: HTTP only."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import Response, current_app, jsonify, url_for
from flask.typing import ResponseReturnValue

from app import db
from app.accounts.principal import current
from app.config import Settings
from app.gifts import service
from app.gifts.models import Gift
from app.gifts.schemas import (
    Attempts,
    GiftCreated,
    GiftIn,
    GiftOut,
    GiftPage,
    GiftQuery,
    SendOut,
)
from app.http.blueprint import LOCATION, Blueprint
from app.http.pagination import page
from app.idempotency import service as idempotency
from app.idempotency.headers import REPLAYED, OptionalKey, RequiredKey, mark

SEND_OUT = SendOut()

blueprint = Blueprint(
    "gifts", __name__, url_prefix="/gifts", description="Gifts, and sending them once."
)


@blueprint.post("")
@blueprint.arguments(GiftIn)
@blueprint.arguments(OptionalKey, location="headers")
@blueprint.response(201, GiftCreated, headers={**LOCATION, **REPLAYED})
@blueprint.refuses(400, 409, 413, 415, 422)
def create(fields: dict[str, Any], headers: dict[str, Any]) -> ResponseReturnValue:
    """Create a gift

    With an `Idempotency-Key` the request may be repeated for 24 hours: the same body gets the
    same answer, another body 422, and 409 while the first request is still running.
    """
    principal = current()
    with db.transaction() as session:
        answer = idempotency.once(
            session,
            account_id=principal.account_id,
            scope="POST /gifts",
            key=headers.get("idempotency_key"),
            request=fields,
            answer=lambda: GiftCreated().dump(
                service.create(session, principal, fields, _simulates())
            ),
        )
    response = jsonify(answer.body)
    response.status_code = 201
    response.headers["Location"] = url_for("gifts.get", gift_id=answer.body["gift_id"])
    return mark(response, replayed=answer.replayed)


@blueprint.get("")
@blueprint.arguments(GiftQuery, location="query")
@blueprint.response(200, GiftPage)
@blueprint.refuses(400)
def list_gifts(query: dict[str, Any]) -> dict[str, Any]:
    """List your gifts, newest first"""
    with db.transaction() as session:
        rows = service.list_gifts(
            session,
            current(),
            limit=query["limit"] + 1,
            status=query.get("status"),
            before=query.get("cursor"),
        )
    return page(rows, query["limit"])


@blueprint.get("/<uuid:gift_id>")
@blueprint.response(200, GiftOut)
@blueprint.refuses(403, 404)
def get(gift_id: UUID) -> Gift:
    """Watch a gift's state"""
    with db.transaction() as session:
        return service.get(session, current(), gift_id)


@blueprint.post("/<uuid:gift_id>/send")
@blueprint.arguments(RequiredKey, location="headers")
@blueprint.response(202, SendOut, description="Queued.")
@blueprint.alt_response(
    200, schema=SendOut, headers=REPLAYED, success=True, description="Queued before, by this key."
)
@blueprint.refuses(400, 403, 404, 409)
def send(headers: dict[str, Any], gift_id: UUID) -> ResponseReturnValue:
    """Send a gift

    Answers as soon as the promise is in the database. The same key may ask again at any time and
    gets the same body; another key gets 409.
    """
    with db.autocommit() as session:
        answer = service.request_send(session, current(), gift_id, headers["idempotency_key"])
    return _accepted(answer)


@blueprint.post("/<uuid:gift_id>/retry")
@blueprint.arguments(RequiredKey, location="headers")
@blueprint.response(202, SendOut, description="Queued again.")
@blueprint.alt_response(
    200, schema=SendOut, headers=REPLAYED, success=True, description="Queued before, by this key."
)
@blueprint.refuses(400, 403, 404, 409, 422)
def retry(headers: dict[str, Any], gift_id: UUID) -> ResponseReturnValue:
    """Send a failed gift again (operators)

    A new send of any account's gift, with five new executions. Needs an operator's key, and an
    `Idempotency-Key` of its own: the same key may ask again at any time and gets the same body.
    409 unless the gift is `FAILED`; 422 for the key under which its owner sent it.
    """
    with db.transaction() as session:
        answer = service.request_retry(session, current(), gift_id, headers["idempotency_key"])
    return _accepted(answer)


@blueprint.get("/<uuid:gift_id>/attempts")
@blueprint.response(200, Attempts)
@blueprint.refuses(403, 404)
def attempts(gift_id: UUID) -> dict[str, Any]:
    """See every execution of a gift's sends, oldest first"""
    with db.transaction() as session:
        return {"items": service.attempts(session, current(), gift_id)}


def _accepted(answer: service.SendAnswer) -> Response:
    response = jsonify(SEND_OUT.dump(answer))
    response.status_code = 200 if answer.replayed else 202
    return mark(response, replayed=answer.replayed)


def _simulates() -> bool:
    settings: Settings = current_app.extensions["okuru"]
    return settings.sender == "simulated"
