"""What really delivers a gift, behind one small protocol."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID


@dataclass(frozen=True)
class Parcel:
    """What a provider needs to know about a gift."""

    gift_id: UUID
    code: UUID
    amount: int
    message: str | None
    recipient: str | None
    accepted_at: datetime
    simulate: dict[str, Any]

    def __repr__(self) -> str:
        # The code is a bearer secret, and a repr ends up in logs.
        return f"Parcel({self.gift_id})"


class Sender(Protocol):
    def send(self, parcel: Parcel, execution: int) -> None:
        """Deliver `parcel`, with its gift id as the idempotency key.

        Args:
            execution: 1 to 5.

        Raises:
            app.delivery.errors.TransientError: not delivered, or nobody knows.
            app.delivery.errors.PermanentError: will never be delivered.
        """
