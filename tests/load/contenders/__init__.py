"""One file a contender, each run in a process of its own: `python -m … publish N` or `work`."""
