"""The task that jobs may ask for, on a queue for each band of priorities."""

from app.outbox.service import Message

#: SQS has no priorities: each band is a queue, and workers ask the higher ones more often.
HIGH = Message(task="jobs.run", queue="jobs-high")
DEFAULT = Message(task="jobs.run", queue="jobs-default")
LOW = Message(task="jobs.run", queue="jobs-low")
