"""The task that each message of the inbox is (tasks/engine/queues.json), and its redrive."""

from app.outbox.service import Message

#: Others write to the inbox; a message that an operator redrives comes as a task of our own.
RECEIVE_AGAIN = Message(task="messages.receive", queue="maintenance")
