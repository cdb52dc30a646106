"""A row belongs to one account."""

from __future__ import annotations

from uuid import UUID

from app.accounts.service import Principal
from app.errors import Forbidden, NotFound


def require_owner(principal: Principal, owner_id: UUID | None, name: str) -> None:
    """Return if the principal's account owns the row.

    Args:
        owner_id: the row's account, or None if there is no such row.
        name: what the row is called, such as "gift".

    Raises:
        NotFound: there is no such row.
        Forbidden: it belongs to another account.
    """
    if owner_id is None:
        raise NotFound(f"{name} not found")
    if owner_id != principal.account_id:
        raise Forbidden(f"this {name} belongs to another account")
