"""Idempotency-Key: one effect and one answer a key."""
