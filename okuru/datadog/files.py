"""The files of `terraform/datadog`, with the values of an environment in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app import strict_json
from app.errors import Invalid

Kind = Literal["slo", "monitor", "dashboard"]

FOLDER = Path(__file__).parents[2] / "terraform" / "datadog"
#: By these Datadog's objects are known as ours.
MANAGED = "managed-by:okuru"
KEY = "okuru-key:"
#: Names of files, which are those of objects. Datadog would write others in its own way.
NAME = r"[a-z0-9-]+"

_PLACEHOLDER = re.compile(r"\$\{([a-z:-]+)\}")


class Unusable(Exception):
    """A file that cannot be used, with the reason."""


@dataclass(frozen=True)
class Definition:
    """One file: what an object in Datadog shall be."""

    kind: Kind
    key: str
    body: dict[str, Any]

    def filled(self, values: Mapping[str, str]) -> Definition:
        """The same with each `${name}` replaced; Unusable names one that is not known."""
        return Definition(self.kind, self.key, _filled(self.body, values, self))


def keys(folder: Path) -> frozenset[tuple[Kind, str]]:
    """What has a file, whether it applies or not."""
    return frozenset(
        [
            *(("slo", path.stem) for path in (folder / "slos").glob("*.json")),
            *(("monitor", path.stem) for each in _monitors(folder) for path in each.glob("*.json")),
            ("dashboard", "overview"),
        ]
    )


def load(folder: Path, *, env: str, notify: str, docs: str, extended: bool) -> list[Definition]:
    """Every file that applies, in the order in which they depend on each other.

    What only Datadog knows, the ids of objectives (`${slo:key}`), is still to be filled in.

    Args:
        notify: whom the monitors tell, such as `@slack-okuru`.
        docs: what stands before `docs/runbook.md` in a link.
        extended: the monitors of `monitors/extended` too.
    """
    values = {"env": env, "notify": notify, "docs": docs}
    # A folder that is not there is a mistake, and no wish to have nothing watched.
    for needed in (folder, folder / "slos", folder / "monitors"):
        if not needed.is_dir():
            raise Unusable(f"{needed} is not there: run this in a checkout of the repository")
    default, more = ({path.name for path in each.glob("*.json")} for each in _monitors(folder))
    if twice := sorted(default & more):
        raise Unusable(f"{', '.join(twice)}: in monitors and in monitors/extended of {folder}")
    monitors = _monitors(folder)[: 2 if extended else 1]
    found = [
        *_read("slo", [folder / "slos"], env),
        *_read("monitor", monitors, env),
        Definition("dashboard", "overview", _dashboard(folder / "dashboard.json")),
    ]
    known = {f"slo:{each.key}": f"${{slo:{each.key}}}" for each in found if each.kind == "slo"}
    return [each.filled({**values, **known}) for each in found]


def _monitors(folder: Path) -> tuple[Path, Path]:
    return folder / "monitors", folder / "monitors/extended"


def _read(kind: Kind, folders: Sequence[Path], env: str) -> Iterator[Definition]:
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            if not re.fullmatch(NAME, path.stem):
                raise Unusable(f"{path}: a name has small letters, digits and hyphens only")
            body = _json(path)
            tags = body.get("tags", [])
            if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
                raise Unusable(f"{path}: its tags are no list of texts")
            body["tags"] = [*tags, MANAGED, f"{KEY}{path.stem}", f"env:{env}"]
            yield Definition(kind, path.stem, body)


def _dashboard(path: Path) -> dict[str, Any]:
    """A dashboard's tags are for teams only: its marks stand in its description."""
    body = _json(path)
    body["description"] = f"{body.get('description', '')}\n\n{MANAGED} {KEY}overview".strip()
    return body


def _json(path: Path) -> dict[str, Any]:
    # A pipe would be waited for.
    if path.exists() and not path.is_file():
        raise Unusable(f"{path} is no file")
    try:
        body = strict_json.parse(path.read_bytes(), name=str(path))
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}") from error
    except Invalid as error:
        raise Unusable(str(error)) from error
    if not isinstance(body, dict):
        raise Unusable(f"{path} is no object of JSON")
    return body


def _filled(value: Any, values: Mapping[str, str], definition: Definition) -> Any:
    if isinstance(value, dict):
        return {name: _filled(each, values, definition) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, values, definition) for each in value]
    if not isinstance(value, str):
        return value
    if missing := set(_PLACEHOLDER.findall(value)) - values.keys():
        names = ", ".join(f"${{{name}}}" for name in sorted(missing))
        raise Unusable(f"{definition.kind} {definition.key} asks for {names}, which nothing gives")
    return _PLACEHOLDER.sub(lambda found: values[found[1]], value)
