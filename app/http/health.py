"""`/healthz` for the process, `/readyz` for what it depends on, `/metrics` for Prometheus."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify
from flask.typing import ResponseReturnValue

from app import db
from app.observability import metrics

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@blueprint.get("/health")
def healthz() -> ResponseReturnValue:
    """The process answers. Touches nothing: a database outage must not restart the API."""
    return jsonify(status="ok")


@blueprint.get("/readyz")
def readyz() -> ResponseReturnValue:
    """Whether requests can be served. The broker is not asked: the outbox waits for it."""
    try:
        db.require_ready()
    except db.NotReady as error:
        return _not_ready(str(error))
    except db.OUTAGE_ERRORS:
        return _not_ready("the database cannot be reached")
    return jsonify(status="ready")


@blueprint.get("/metrics")
def exposition() -> ResponseReturnValue:
    return Response(metrics.exposition(), content_type=metrics.CONTENT_TYPE)


def _not_ready(reason: str) -> ResponseReturnValue:
    return jsonify(status="not_ready", reason=reason), 503
