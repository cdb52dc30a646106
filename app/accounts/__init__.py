"""Accounts, keys, and the principal that a request acts as."""
