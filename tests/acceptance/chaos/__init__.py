"""Chaos: whatever is killed, frozen, copied or poisoned, each gift has its effect once.

`make chaos` runs the whole of it and shows a report, `make test` a short version.

| file | does |
|---|---|
| `stub.py` | the provider, a process of its own: the ledger of what really happened |
| `provider.py` | starts it, tells it how to misbehave, reads its ledger |
| `world.py` | the stack, the provider and the instruments, together |
| `instruments.py` | what is put into the test's database: a log of moves, a gate for the relay |
| `load.py` | callers that ask until they are told yes |
| `faults.py`, `poison.py` | the injectors |
| `scenarios.py` | which faults strike which sends |
| `evidence.py`, `promises.py` | what is left afterwards, and what it must look like |
| `report.py`, `__main__.py` | the command |
"""
