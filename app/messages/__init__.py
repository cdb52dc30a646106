"""Typed messages: what other systems put on the inbox queue as plain JSON."""
