"""One set of guarded statements for every deliverable: docs/architecture.md tells the scheme."""
