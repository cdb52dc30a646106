"""`/openapi.json` and `/docs`: complete, and from this package alone."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jsonschema_rs import validator_for

METHODS = ("get", "post", "put", "patch", "delete")


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").get_json()
    return found


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": item[method]
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item
    }


def resolved(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """The node, or what its `$ref` names."""
    while "$ref" in node:
        place = node["$ref"].removeprefix("#/").split("/")
        node = document
        for step in place:
            node = node[step]
    return node


def references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [ref for child in node for ref in references(child)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
    return own + [ref for child in node.values() for ref in references(child)]


def test_it_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.1\.\d", document["openapi"])
    assert document["info"]["title"] == "Okuru"


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    assert references(document)
    for reference in references(document):
        assert resolved(document, {"$ref": reference})


def test_every_route_of_a_domain_is_in_it(app: Flask, document: dict[str, Any]) -> None:
    routes = {
        f"{method} " + re.sub(r"<(?:[^:>]+:)?([^>]+)>", r"{\1}", rule.rule)
        for rule in app.url_map.iter_rules()
        if rule.endpoint.split(".")[0] not in ("health", "docs", "api-docs")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    assert operations(document).keys() == routes


def test_the_auth_flow_is_told_and_required(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["apiKey"] | {"description": ""} == {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "",
    }
    assert document["security"] == [{"apiKey": []}]
    assert not [name for name, found in operations(document).items() if "security" in found]
    for words in ("X-API-Key", "okuru keys create", "revoked"):
        assert words in document["info"]["description"]


def test_every_operation_tells_how_it_is_refused(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        assert operation["summary"], name
        statuses = set(operation["responses"])
        assert {"401", "503"} <= statuses, name
        assert "default" not in statuses, f"{name}: a default would cover what is forgotten"
        if "{gift_id}" in name:
            assert {"403", "404"} <= statuses, name
        if "requestBody" in operation:
            assert {"400", "413", "415"} <= statuses, name


def test_every_refusal_is_the_envelope_with_an_example_of_its_own_code(
    document: dict[str, Any],
) -> None:
    schema = resolved(document, {"$ref": "#/components/schemas/ErrorEnvelope"})
    envelope = validator_for({**schema, "components": document["components"]})
    for name, operation in operations(document).items():
        for status, response in operation["responses"].items():
            found = resolved(document, response)
            assert "X-Request-ID" in found["headers"], (name, status)
            if int(status) < 400:
                continue
            content = found["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/ErrorEnvelope"}
            envelope.validate(content["example"])
            assert ("Retry-After" in found["headers"]) == (status == "503")
            assert ("WWW-Authenticate" in found["headers"]) == (status == "401")


def example_of(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    """The example that a reader of the documentation sees, put together from the fields'."""
    schema = {**resolved(document, schema), **schema}
    if "example" in schema:
        return schema["example"]
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            fields = schema.get("properties", {})
            return {name: example_of(document, field) for name, field in fields.items()}
        case "array":
            return [example_of(document, schema["items"])]
        case "boolean":
            return True
    raise AssertionError(f"no example: {schema}")


def test_every_answer_and_every_body_has_an_example_that_fits_its_schema(
    document: dict[str, Any],
) -> None:
    for name, operation in operations(document).items():
        places = [
            resolved(document, response)
            for status, response in operation["responses"].items()
            if int(status) < 400
        ]
        places += [operation["requestBody"]] if "requestBody" in operation else []
        for place in places:
            schema = place["content"]["application/json"]["schema"]
            example = example_of(document, schema)
            assert example, name
            validator_for({**schema, "components": document["components"]}).validate(example)


def test_a_created_gift_tells_where_it_is(document: dict[str, Any]) -> None:
    headers = operations(document)["POST /gifts"]["responses"]["201"]["headers"]

    assert {"Location", "Idempotent-Replayed"} <= headers.keys()


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_the_page_loads_only_what_this_package_serves(client: FlaskClient, prefix: str) -> None:
    page = client.get(f"{prefix}/docs")

    assert page.content_type.startswith("text/html")
    links = re.findall(r'(?:src|href|url)["\s]*[=:]\s*"([^"]+)"', page.text)
    assert f"{prefix}/openapi.json" in links
    assert len(links) >= 4
    for link in links:
        assert link.startswith("/"), "nothing from another host"
        assert client.get(link).status_code == 200, link


def test_the_assets_are_cached_and_typed(client: FlaskClient) -> None:
    style = client.get("/docs/assets/swagger-ui.css")

    assert style.content_type.startswith("text/css")
    assert style.cache_control.max_age


@pytest.mark.parametrize("path", ["/swagger/", "/swagger", "/api/v1/swagger/"])
def test_the_old_address_leads_to_the_page(client: FlaskClient, path: str) -> None:
    response = client.get(path, follow_redirects=True)

    assert response.status_code == 200
    assert response.request.path.endswith("/docs")
