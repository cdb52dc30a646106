"""Draws the JSON of a run: `python -m tests.load.plot JSON PNG`, with the bench environment."""

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

_PANELS = {
    "noop": ("No-op tasks", "messages/s"),
    "gifts": ("The real send", "messages/s"),
    "accept": ("The accept path", "requests/s"),
}
_OURS = ("this engine", "this API")


def main(source: Path, target: Path) -> None:
    results = json.loads(source.read_text())
    panels = [name for name in _PANELS if name in results]
    figure, axes = pyplot.subplots(
        1, max(1, len(panels)), figsize=(4.5 * max(1, len(panels)), 4), squeeze=False
    )
    for axis, name in zip(axes[0], panels, strict=False):
        title, unit = _PANELS[name]
        _bars(axis, results[name])
        axis.set_title(title)
        axis.set_ylabel(unit)
    machine = results["machine"]
    figure.suptitle(
        f"{machine['date'][:10]}, {machine['cores']} cores, {machine['processor']}", fontsize=8
    )
    figure.tight_layout()
    figure.savefig(target, dpi=120)


def _bars(axis: Any, samples: dict[str, list[dict[str, float]]]) -> None:
    """Medians, with the range as a whisker."""
    for place, (name, each) in enumerate(samples.items()):
        rates = [sample["per_second"] for sample in each]
        middle = median(rates)
        whisker = [[middle - min(rates)], [max(rates) - middle]]
        colour = "tab:green" if name in _OURS else "tab:gray"
        axis.bar(place, middle, yerr=whisker, capsize=4, color=colour)
        axis.annotate(
            f"{middle:,.0f}", (place, middle), xytext=(6, 3), textcoords="offset points", fontsize=8
        )
    axis.set_xticks(range(len(samples)), list(samples), rotation=20, ha="right", fontsize=8)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
