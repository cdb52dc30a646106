"""Gifts: created, sent once, watched."""
