"""Passwords are kept as Argon2id hashes, and nowhere else."""

from __future__ import annotations

from argon2 import PasswordHasher

#: OWASP's Password Storage Cheat Sheet: 19 MiB and two passes. The RFC's 64 MiB for each of a web
#: process's threads would be gigabytes.
_hasher = PasswordHasher(memory_cost=19 * 1024, time_cost=2, parallelism=1)


def hashed(password: str) -> str:
    """Takes tens of milliseconds: not inside a transaction."""
    return _hasher.hash(password)
