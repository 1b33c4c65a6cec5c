"""The description of the JSON API: an OpenAPI 3.1 document made from the routes, and a page that shows it."""

import re
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Template
from msgspec import Struct

from gateway import rendering
from gateway.api.describe import Describe
from gateway.api.query import Param
from gateway.words import DEVICE, KIND, LINK_STATE, NETWORK_STATUS, OPEN_COLUMNS, VERDICT

DOCUMENT_PATH = "/api/docs/openapi.json"
REF = "#/components/schemas/{name}"

_ABOUT = """\
Send `Authorization: Bearer <api key>`; a signed-in browser may use its session instead, and then sends `x-csrf-token`
with every change. Times are RFC 3339. Missing is null. Unknown parameters and fields are refused (422). Lists are
paged: `page_size` (50; above 200 is 200) and `page_token`, which is `next_page_token` of the answer before and belongs
to the same filter. Errors are `application/problem+json`; `reason` never changes its meaning, `errors` names the fields
at fault.

An open proves that a page was requested from a device and a network. It does not prove that a named person read it."""

_ERRORS = {
    401: ("No key or session, or one that has ended.", "CREDENTIAL_MISSING", ""),
    403: ("The key or role does not allow this.", "PERMISSION_MISSING", ""),
    404: ("There is none, or it belongs to another agency.", "LINK_UNKNOWN", "id"),
    409: ("It does not fit the present state.", "CHANGED_MEANWHILE", ""),
    413: ("The body is too large.", "BODY_TOO_LARGE", "body"),
    422: ("Something that was sent is wrong; `errors` names each field.", "FIELDS_INVALID", "display_name"),
    429: ("Too much at once; try again later.", "RESOURCE_EXHAUSTED", ""),
    503: ("A part of OpenNotice does not answer right now; try again.", "UNAVAILABLE", ""),
}

_TYPES: dict[str, dict[str, Any]] = {
    "open_id": {"type": "string", "format": "uuid"},
    "opened_at": {"type": "string", "format": "date-time"},
    "asn": {"type": "integer"},
    "active_seconds": {"type": "number"},
    "reasons": {"type": "array", "items": {"type": "string"}},
    "kind": {"enum": list(KIND.all)},
    "device": {"enum": list(DEVICE.all)},
    "link_state": {"enum": list(LINK_STATE.all)},
    "verdict": {"enum": list(VERDICT.all)},
}
_NEVER_MISSING = ("open_id", "opened_at", "reasons", "kind", "device", "link_state", "verdict")


@dataclass(frozen=True)
class Operation:
    """One row of the page that shows the description."""

    method: str
    path: str
    summary: str
    permission: str
    params: tuple[Param, ...]
    fields: list[tuple[str, bool]]
    reasons: tuple[str, ...]


def _described(app: Litestar) -> list[tuple[str, str, HTTPRouteHandler, Describe]]:
    """Returns every described route as (path, method, handler, description), in the order of the routes."""
    found = []
    for route in app.routes:
        for handler in getattr(route, "route_handlers", []):
            described = handler.opt.get("describe")
            if isinstance(described, Describe):
                path = re.sub(r"\{(\w+):str\}", r"{\1}", route.path).replace("/:", ":")
                method = next(iter(handler.http_methods - {"OPTIONS", "HEAD"}))
                found.append((path, str(method.value if hasattr(method, "value") else method), handler, described))
    return found


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _open_schema() -> dict[str, Any]:
    properties = {}
    for column in OPEN_COLUMNS:
        schema = _TYPES.get(column, {"type": "string"})
        properties[column] = schema if column in _NEVER_MISSING else _nullable(schema)
    properties["client_name"] = _nullable({"type": "string", "description": "clients/{id}"})
    properties["portal_name"] = _nullable({"type": "string", "description": "portals/{id}"})
    properties["detail"] = {
        "type": "object",
        "description": "Everything else; only by id.",
        "properties": {
            "reasons": {"type": "array", "items": {"type": "object"}},
            "method": {"type": "string"},
            "status": {"type": "integer"},
            "directory_stale": {"type": "boolean"},
            "revoke_time": _nullable({"type": "string", "format": "date-time"}),
            "token_repaired": {"type": "boolean"},
            "query": _nullable({"type": "string"}),
            "accept_language": _nullable({"type": "string"}),
            "headers": {"type": "array", "items": {"type": "object"}},
            "network_status": {"enum": list(NETWORK_STATUS.all)},
            "rule_pack": _nullable({"type": "string"}),
            "data_sets": {"type": "array", "items": {"type": "string"}},
            "enrich_time": _nullable({"type": "string", "format": "date-time"}),
            "arrive_time": _nullable({"type": "string", "format": "date-time"}),
        },
    }
    return {"type": "object", "properties": properties, "required": [*OPEN_COLUMNS, "client_name", "portal_name"]}


def _hand_made() -> dict[str, Any]:
    """Returns the schemas that no class describes."""
    text = {"type": "string"}
    group = {
        "type": "object",
        "properties": {"value": text, "display_name": _nullable(text), "count": {"type": "integer"}},
    }
    error = {"type": "object", "properties": {"field": text, "message": text}, "required": ["field", "message"]}
    entry = {
        "time": {"type": "string", "format": "date-time"},
        "kind": {"enum": ["message", "delivery", "open"]},
        "message": {"$ref": REF.format(name="MessageShown")},
        "delivery": {"type": "object", "properties": {"message": text, "status": text}},
        "open": {"$ref": REF.format(name="Open")},
    }
    return {
        "Open": _open_schema(),
        "Summary": {
            "type": "object",
            "properties": {"by": text, "groups": {"type": "array", "items": group}, "total": {"type": "integer"}},
        },
        "TimelineEntry": {"type": "object", "properties": entry, "required": ["time", "kind"]},
        "CSV": {"type": "string", "description": "Columns: " + ", ".join(OPEN_COLUMNS)},
        "Problem": {
            "type": "object",
            "properties": {
                "type": text,
                "title": text,
                "status": {"type": "integer"},
                "reason": text,
                "errors": {"type": "array", "items": error},
            },
            "required": ["type", "title", "status", "reason", "errors"],
        },
    }


def _answer(described: Describe) -> dict[str, Any]:
    name = described.answer if isinstance(described.answer, str) else described.answer.__name__
    schema: dict[str, Any] = {"$ref": REF.format(name=name)}
    if described.many:
        token = _nullable({"type": "string"})
        listed = {"type": "array", "items": schema}
        schema = {"type": "object", "properties": {described.many: listed, "next_page_token": token}}
    return {"description": described.summary, "content": {described.media_type: {"schema": schema}}}


def _error(status: int) -> dict[str, Any]:
    description, reason, field = _ERRORS[status]
    example = {
        "type": "urn:opennotice:problem:" + reason.lower().replace("_", "-"),
        "title": description,
        "status": status,
        "reason": reason,
        "errors": [{"field": field, "message": description}],
    }
    content = {"schema": {"$ref": REF.format(name="Problem")}, "example": example}
    return {"description": description, "content": {"application/problem+json": content}}


def _parameter(param: Param) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"} if param.whole else {"type": "string"}
    if param.words:
        schema["enum"] = list(param.words)
    if param.repeatable:
        schema = {"type": "array", "items": schema}
    shown = {
        "name": param.name,
        "in": "query",
        "description": param.description,
        "required": param.required,
        "schema": schema,
    }
    return shown | ({"example": param.example} if param.example else {})


def _operation(path: str, handler: HTTPRouteHandler, described: Describe) -> dict[str, Any]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    statuses = [401, 403, 422, 429, 503]
    statuses += [404] if in_path or any(reason.endswith("_UNKNOWN") for reason in described.reasons) else []
    statuses += [409, 413] if described.body else []
    reasons = f" Reasons: {', '.join(described.reasons)}." if described.reasons else ""
    shown: dict[str, Any] = {
        "operationId": handler.fn.__name__,
        "tags": [described.tag],
        "summary": described.summary,
        "description": f"Needs the permission `{handler.opt['permission']}`.{reasons}",
        "parameters": in_path + [_parameter(param) for param in described.params],
        "responses": {str(handler.status_code): _answer(described)}
        | {str(status): _error(status) for status in sorted(statuses)},
    }
    if described.body is not None:
        content: dict[str, Any] = {"schema": {"$ref": REF.format(name=described.body.__name__)}}
        if described.example is not None:
            content["example"] = described.example
        shown["requestBody"] = {"required": described.example is not None, "content": {"application/json": content}}
    return shown


def document(app: Litestar) -> dict[str, Any]:
    """Returns the whole description."""
    routes = _described(app)
    paths: dict[str, dict[str, Any]] = {}
    structs: dict[str, type[Struct]] = {}
    for path, method, handler, described in routes:
        paths.setdefault(path, {})[method.lower()] = _operation(path, handler, described)
        for shape in (described.body, described.answer):
            if shape is not None and not isinstance(shape, str):
                structs[shape.__name__] = shape
    _, schemas = msgspec.json.schema_components(structs.values(), ref_template=REF)
    return {
        "openapi": "3.1.0",
        "info": {"title": "OpenNotice", "version": "1", "description": _ABOUT, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": schemas | _hand_made(),
            "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer", "description": "An API key: onk_…"}},
        },
        "security": [{"apiKey": []}],
    }


def _fields(shape: type[Struct] | None) -> list[tuple[str, bool]]:
    if shape is None:
        return []
    return [(field.name, field.required) for field in msgspec.structs.fields(shape)]


@get(DOCUMENT_PATH, public=True)
async def show_document(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """Returns the OpenAPI document."""
    return Response(document(request.app), media_type="application/vnd.oai.openapi+json")


@get("/api/docs", public=True)
async def show_page(request: Request[Any, Any, Any]) -> Template:
    """Shows the description to a person, with nothing loaded from elsewhere."""
    operations: dict[str, list[Operation]] = {}
    for path, method, handler, described in _described(request.app):
        operation = Operation(
            method=method,
            path=path,
            summary=described.summary,
            permission=handler.opt["permission"],
            params=described.params,
            fields=_fields(described.body),
            reasons=described.reasons,
        )
        operations.setdefault(described.tag, []).append(operation)
    about = [" ".join(part.split()) for part in _ABOUT.split("\n\n")]
    return rendering.page(
        request,
        "api/docs.html",
        agency=None,
        problems=[],
        about=about,
        operations=operations,
        document_path=DOCUMENT_PATH,
    )


HANDLERS = [show_document, show_page]
