"""Paper that cannot rot: what the docs name exists, and what exists is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.observability import metrics

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "tasks/engine/README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    local = [target for target in targets if not target.startswith(("http:", "https:", "mailto:"))]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert missing == []


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    kept = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.replace(" ", "-") for title in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_anchor_is_a_heading(page: Path) -> None:
    missing = []
    for target, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            aimed = page if not target else page.parent / target
            if aimed.suffix == ".md" and anchor not in anchors(aimed):
                missing.append(f"{target}#{anchor}")
    assert missing == []


def test_every_metric_is_documented_and_no_other() -> None:
    page = (ROOT / "docs/observability.md").read_text()
    documented = set(
        re.findall(r"^\| `([a-z_]+_(?:total|seconds|rows|open|pending))` \|", page, re.M)
    )
    # As they are exposed: a counter's name ends in _total.
    exposed = {
        collector._name + ("_total" if collector._type == "counter" else "")
        for name, collector in vars(metrics).items()
        if name.isupper() and hasattr(collector, "_type")
    }
    assert documented == exposed


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs/adr"
    index = (folder / "README.md").read_text()
    assert all(page.name in index for page in folder.glob("0*.md"))


def test_every_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
