"""Okuru's API: `create_app()` wires the parts together and does nothing else."""

from __future__ import annotations

from flask import Flask

from app import db, http
from app.accounts import principal
from app.config import Settings
from app.gifts.routes import blueprint as gifts
from app.jobs import processors
from app.jobs.routes import blueprint as jobs
from app.messages.routes import blueprint as messages
from app.notifications.routes import blueprint as notifications
from app.observability import logs
from app.users.routes import blueprint_for as users


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application.

    Raises:
        app.config.ConfigurationError: names every bad or missing variable at once.
        app.jobs.processors.BadProcessor: a module of OKURU_PROCESSORS cannot be used.
    """
    settings = settings or Settings.from_env(sends=False)
    logs.configure(service="api", level=settings.log_level, style=settings.log_format)
    db.configure(settings, db.API)
    app = Flask(__name__, static_folder=None)
    app.extensions["okuru"] = settings
    api = http.install(app)
    principal.install(app, allow_local=settings.is_local)
    processors.load(settings.okuru_processors)
    for blueprint in (gifts, jobs, messages, notifications, users(settings.validation_mode)):
        api.register_blueprint(blueprint)
    return app
