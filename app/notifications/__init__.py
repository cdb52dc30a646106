"""Notifications: short messages that people read."""
