"""Which sender the settings ask for."""

from __future__ import annotations

from app.config import ConfigurationError, Settings
from app.gifts.senders import Sender
from app.gifts.senders.simulated import SimulatedSender
from app.gifts.senders.webhook import WebhookSender


def from_settings(settings: Settings) -> Sender:
    if settings.sender == "simulated":
        return SimulatedSender(settings.send_failure_rate)
    if not settings.sender_url or not settings.sender_secret:
        raise ConfigurationError("SENDER=webhook needs SENDER_URL and SENDER_SECRET")
    return WebhookSender(
        settings.sender_url,
        settings.sender_secret,
        connect_timeout=settings.sender_connect_timeout,
        read_timeout=settings.sender_read_timeout,
        public_only=not settings.is_local,
        allowed_hosts=settings.sender_allowed_hosts,
    )
