"""The tasks that gifts may ask for."""

from app.outbox.service import Message

SEND = Message(task="gifts.send", queue="gifts")
