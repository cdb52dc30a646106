"""Why a message of another system is refused: recorded, and told by `okuru dlq show`."""

from __future__ import annotations

from app.errors import Invalid


class MessageRefused(Invalid):
    code = "INVALID_MESSAGE"
    #: The type of the message, where it says one that is known.
    kind = "unknown"


class NotJson(MessageRefused):
    code = "INVALID_JSON"


class UnknownMessageType(MessageRefused):
    code = "UNKNOWN_MESSAGE_TYPE"


class UnknownMessageVersion(MessageRefused):
    code = "UNKNOWN_MESSAGE_VERSION"


class MessageIdReused(MessageRefused):
    code = "MESSAGE_ID_REUSED"
