"""Whether a body is what Datadog's API describes, by the models of its own client.

The models refuse what is missing or of a wrong type. An unknown key passes, a value that is in no
list of values is only marked as unparsed, and of texts and numbers they look at the type alone: all
of that is looked for here.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from typing import Any

from okuru.datadog.files import Definition

#: Texts that say nothing when they are empty.
NEEDED = frozenset({"name", "query", "q"})
#: Characters of these kinds no text has, but for what breaks its lines.
UNWRITABLE = frozenset({"Cc", "Cs"})


def problems(definition: Definition) -> list[str]:
    """Each part of the body that the API would refuse or ignore."""
    from datadog_api_client.exceptions import OpenApiException

    if found := list(_unsound(definition.body, "")):
        return found
    try:
        return list(_unknown(definition.body, model_of(definition), ""))
    except OpenApiException as error:
        return [str(error).split("\n", 1)[0]]
    except TypeError:  # the client's own, which names nothing of the file
        return ["a part of it is of another type than the API takes"]


def model_of(definition: Definition) -> Any:
    """The body as the model that the API's methods take."""
    from datadog_api_client import Configuration
    from datadog_api_client.model_utils import validate_and_convert_types
    from datadog_api_client.v1.model.dashboard import Dashboard
    from datadog_api_client.v1.model.monitor import Monitor
    from datadog_api_client.v1.model.service_level_objective_request import (
        ServiceLevelObjectiveRequest,
    )

    models = {"slo": ServiceLevelObjectiveRequest, "monitor": Monitor, "dashboard": Dashboard}
    return validate_and_convert_types(
        definition.body,
        (models[definition.kind],),
        [f"{definition.kind} {definition.key}"],
        True,  # names as JSON has them
        True,  # with a check of types
        configuration=Configuration(),
    )


def _unsound(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, each in value.items():
            here = f"{path}.{name}".removeprefix(".")
            if name in NEEDED and isinstance(each, str) and not each.strip():
                yield f"{here}: is empty"
            yield from _unsound(each, here)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _unsound(each, f"{path}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{path}: is greater than any number of JSON's readers"
    elif isinstance(value, str):
        for char in value:
            if unicodedata.category(char) in UNWRITABLE and char not in "\n\t":
                yield f"{path}: has the character {char!r}"
                return


def _unknown(given: Any, parsed: Any, path: str) -> Iterator[str]:
    from datadog_api_client.model_utils import ModelComposed, ModelSimple, UnparsedObject

    if given is None:  # the models let it pass
        yield f"{path}: is null, where it should be left out"
        return
    while isinstance(parsed, ModelComposed):
        parsed = parsed.get_oneof_instance()
    if isinstance(parsed, UnparsedObject):
        yield f"{path}: fits none of the forms that it may have"
    elif isinstance(given, list) and not isinstance(parsed, list):
        yield f"{path}: is a list, and shall be none"
    elif isinstance(given, list):
        for index, each in enumerate(given):
            yield from _unknown(each, parsed[index], f"{path}[{index}]")
    elif isinstance(parsed, ModelSimple):
        if parsed._unparsed:
            yield f"{path}: {given!r} is none of its values"
    elif isinstance(given, dict) and hasattr(parsed, "attribute_map"):
        attributes = {name: attribute for attribute, name in parsed.attribute_map.items()}
        for name, each in given.items():
            here = f"{path}.{name}".removeprefix(".")
            if name not in attributes:
                yield f"{here}: the API knows no such key"
            else:
                yield from _unknown(each, getattr(parsed, attributes[name]), here)
