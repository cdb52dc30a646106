"""The API, and beside it on the same gunicorn what its accept path is compared with.

POST /bare                    a Flask route that does nothing
POST /inline/gifts/ID/send    the API's own handler, publishing by `apply_async` instead of staging
"""

from __future__ import annotations

import logging
import os
from typing import Any
from uuid import UUID

from celery import Celery
from flask import Flask, jsonify
from flask.typing import ResponseReturnValue
from sqlalchemy import func, insert, literal, select, update
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from app import create_app, db
from app.accounts.principal import current
from app.gifts.models import CREATED, QUEUED, Gift, SendRequest
from app.gifts.schemas import SendOut
from app.gifts.service import SendAnswer
from app.http.blueprint import Blueprint as ApiBlueprint
from app.idempotency.headers import RequiredKey, mark

log = logging.getLogger(__name__)

celery = Celery("inline", broker="sqs://")
celery.conf.update(
    broker_transport_options={
        "region": os.environ["AWS_REGION"],
        "predefined_queues": {"gifts": {"url": os.environ["QUEUE_URL_PREFIX"] + "gifts"}},
    },
    task_default_queue="gifts",
    task_ignore_result=True,
)


@celery.task(name="gifts.send")
def send_gift(gift_id: str, send_no: int, request_id: str) -> None:
    """Never run here."""


inline = ApiBlueprint("inline", __name__, url_prefix="/inline", description="For `make bench`.")


@inline.post("/gifts/<uuid:gift_id>/send")
@inline.arguments(RequiredKey, location="headers")
@inline.response(202, SendOut)
def send(headers: dict[str, Any], gift_id: UUID) -> ResponseReturnValue:
    request_id = headers["idempotency_key"]
    queued = (
        update(Gift)
        .where(
            Gift.id == gift_id,
            Gift.account_id == current().account_id,
            Gift.status == CREATED,
        )
        .values(
            status=QUEUED,
            send_no=Gift.send_no + 1,
            request_id=request_id,
            accepted_at=func.now(),
        )
        .returning(Gift.id, Gift.send_no)
        .cte("queued")
    )
    record = insert(SendRequest).from_select(
        ["gift_id", "request_id", "send_no"],
        select(queued.c.id, literal(request_id), queued.c.send_no),
    )
    with db.transaction() as session:
        send_no = session.execute(
            select(queued.c.send_no).add_cte(record.cte("recorded"))
        ).scalar_one()
    send_gift.apply_async(
        kwargs={"gift_id": str(gift_id), "send_no": send_no, "request_id": request_id},
        headers={"request_id": request_id},
    )
    log.info("gift queued", extra={"gift_id": str(gift_id), "status": QUEUED})
    answer = SendAnswer(gift_id, request_id, replayed=False)
    response = jsonify(SendOut().dump(answer))
    response.status_code = 202
    return mark(response, replayed=False)


bare = Flask("bare", static_folder=None)


@bare.post("/")
def nothing() -> ResponseReturnValue:
    return {"status": "QUEUED"}, 202


def create() -> Any:
    app = create_app()
    app.register_blueprint(inline)
    return DispatcherMiddleware(app, {"/bare": bare})
