"""Logs, metrics, and the context that both carry."""
