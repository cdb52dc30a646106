"""`/users`: HTTP only."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import jsonify, url_for
from flask.typing import ResponseReturnValue

from app import db
from app.accounts.models import User
from app.accounts.passwords import hashed
from app.accounts.principal import current
from app.http.blueprint import LOCATION, Blueprint
from app.users import service
from app.users.schemas import BY_MODE, MODES, UserOut

USER_OUT = UserOut()


def blueprint_for(mode: str) -> Blueprint:
    """The routes, with the validation that `VALIDATION_MODE` asks for."""
    schema, unknown = BY_MODE[mode]
    blueprint = Blueprint(
        "users",
        __name__,
        url_prefix="/users",
        description=f"People with an account. VALIDATION_MODE={mode}: {MODES[mode]}.",
    )

    @blueprint.arguments(schema(unknown=unknown), unknown=unknown)
    @blueprint.response(201, UserOut, headers=LOCATION)
    @blueprint.refuses(400, 403, 409, 413, 415)
    def create(fields: dict[str, Any]) -> ResponseReturnValue:
        password = fields.pop("password", None)
        if password is not None:
            fields["password_hash"] = hashed(password)
        with db.transaction() as session:
            user = service.create(session, current(), fields)
        response = jsonify(USER_OUT.dump(user))
        response.status_code = 201
        response.headers["Location"] = url_for("users.get", user_id=user.id)
        return response

    create.__doc__ = f"""Create a user (operators)

    In the same transaction the job `user_created` is enqueued: it welcomes the user and makes
    their `profile`. Validation is `{mode}`: {MODES[mode]}.
    """
    blueprint.post("")(create)

    @blueprint.get("/<uuid:user_id>")
    @blueprint.response(200, UserOut)
    @blueprint.refuses(403, 404)
    def get(user_id: UUID) -> User:
        """See a user

        A key sees its own account; an operator's sees every account.
        """
        with db.transaction() as session:
            return service.get(session, current(), user_id)

    return blueprint
