from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine

from app import create_app
from app.config import Settings
from app.users.schemas import MODES


@cache
def app_in(settings: Settings, mode: Any, environment: Any = "local") -> Flask:
    """Made once: it talks to whatever database the process is bound to."""
    return create_app(replace(settings, validation_mode=mode, environment=environment))


ClientIn = Callable[[str], FlaskClient]


@pytest.fixture
def client_in(settings: Settings, engine: Engine) -> ClientIn:
    """The local operator, where VALIDATION_MODE is this."""
    # All at once: making one sets up the log, of which a test may hold the end already.
    apps = {mode: app_in(settings, mode) for mode in MODES}
    return lambda mode: apps[mode].test_client()


@pytest.fixture
def production(settings: Settings, engine: Engine) -> FlaskClient:
    """Nobody without a key."""
    return app_in(settings, "default", "production").test_client()
