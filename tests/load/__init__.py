"""Measures the engine and the accept path beside what they could be instead: `make bench`."""
