"""Whether a body is what Datadog's API describes, by the models of its own client.

The models refuse what is missing or of a wrong type. An unknown key passes, and a value that is
in no list of values is only marked as unparsed: both are looked for here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from okuru.datadog.files import Definition


def problems(definition: Definition) -> list[str]:
    """Each part of the body that the API would refuse or ignore."""
    from datadog_api_client.exceptions import OpenApiException

    try:
        return list(_unknown(definition.body, model_of(definition), ""))
    except (OpenApiException, TypeError) as error:
        return [str(error).split("\n", 1)[0]]


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
