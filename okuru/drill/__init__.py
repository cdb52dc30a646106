"""`okuru drill`: play a failure on the local stack, and mend it as docs/runbook.md says."""
