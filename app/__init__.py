"""Okuru's API: `create_app()` wires the parts together and does nothing else."""

from __future__ import annotations

from flask import Flask

from app import db, http
from app.accounts import principal
from app.config import Settings
from app.gifts.routes import blueprint as gifts
from app.observability import logs


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application.

    Raises:
        app.config.ConfigurationError: names every bad or missing variable at once.
    """
    settings = settings or Settings.from_env()
    logs.configure(service="api", level=settings.log_level, style=settings.log_format)
    db.configure(settings, db.API)
    app = Flask(__name__, static_folder=None)
    app.extensions["okuru"] = settings
    api = http.install(app)
    principal.install(app, allow_local=settings.is_local)
    api.register_blueprint(gifts)
    return app
