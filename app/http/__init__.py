"""What every route shares: the envelope, the ids, the limits, health, docs."""

from __future__ import annotations

from flask import Flask
from flask_smorest import Api
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from app.http import context, errors, health, openapi


def install(app: Flask) -> Api:
    """Wire the shared parts into `app`. Returns the Api that takes the domains' blueprints."""
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # It would redirect to an address made of the caller's Host header.
    app.url_map.merge_slashes = False
    context.install(app)
    errors.install(app)
    app.register_blueprint(health.blueprint)
    # Every path is also served under /api/v1: the prefix moves into SCRIPT_NAME, so that links
    # such as Location carry it too.
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/api/v1": app.wsgi_app})  # type: ignore[method-assign]
    return openapi.install(app)
