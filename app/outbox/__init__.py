"""The transactional outbox: a task is published if and only if its transaction commits."""
