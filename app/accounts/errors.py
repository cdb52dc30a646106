"""What can go wrong with accounts, by name."""

from __future__ import annotations

from app.errors import Conflict


class EmailTaken(Conflict):
    code = "EMAIL_TAKEN"
