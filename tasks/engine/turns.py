"""Whose turn it is, among queues that share a worker's processes."""

from __future__ import annotations

from collections.abc import Collection, Mapping


class Turns:
    """Smooth weighted round robin, as in nginx: a heavy queue's turns are spread, not in a row.

    SQS has no priorities, and asking the heaviest queue first would let the others starve. Here,
    while all queues have messages, any W turns (W: the sum of the weights) hold exactly `weight`
    turns of each queue. Between two of its turns lie at most W / weight and as many as there are
    queues; with weights far apart (above 10 to 1), at most 2 W / weight.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._weights = weights
        # A queue that is not asked for a while keeps its credit. The credits add up to nothing,
        # and forgetting one would leave the others with a debt that nobody ever pays back.
        self._credit = dict.fromkeys(weights, 0)

    def next(self, names: Collection[str]) -> str:
        """The one of these queues to ask now; it counts as asked."""
        for name in names:
            self._credit[name] += self._weights[name]
        chosen = max(names, key=self._credit.__getitem__)
        self._credit[chosen] -= sum(self._weights[name] for name in names)
        return chosen
