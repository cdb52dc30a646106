"""Analyses: summaries over what an account has stored, made by jobs."""
