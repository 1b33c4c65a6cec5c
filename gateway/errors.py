"""Errors as people and programs see them: a status, a title in words, the fields at fault.

Services say what is wrong for developers, with a machine reason; here it becomes a page, a fragment for htmx, or
application/problem+json for the API, always of one shape. Nothing of an unforeseen error is told to the outside.
"""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import grpc
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.response import Redirect

from gateway.access import API_PREFIX
from services.chassis import log
from services.chassis.errors import ServiceError, Unauthenticated

PROBLEM_TYPE = "application/problem+json"
SIGN_IN_PATH = "/sign-in"
RETRY_AFTER_SECONDS = "2"

_log = log.get(__name__)

_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 422,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    # A service that is stopped answers nothing; to whoever waits that is the same as one that is away.
    grpc.StatusCode.DEADLINE_EXCEEDED: 503,
    grpc.StatusCode.CANCELLED: 503,
}

_TITLES = {
    400: "The request cannot be read",
    401: "Sign in first",
    403: "You may not do this",
    404: "There is nothing here",
    405: "This cannot be done here",
    409: "This does not fit the present state",
    413: "This is too large",
    421: "Wrong host name",
    422: "Something that was sent is wrong",
    429: "Too much at once",
    500: "Something went wrong on our side",
    503: "A part of OpenNotice does not answer right now",
}

# What a person is told where the service's own English is for developers.
_SENTENCES = {
    "ACCOUNT_LOCKED": "This account is locked after failed sign-ins. Ask an administrator to unlock it.",
    "BODY_TOO_LARGE": "What you sent is too large.",
    "CHANGED_MEANWHILE": "Somebody else changed this meanwhile. Load it again and repeat your change.",
    "CSRF_REFUSED": "This form is out of date. Load the page again and repeat what you did.",
    "EMAIL_TAKEN": "Another user has this e-mail address.",
    "EXPIRE_TIME_PAST": "The expiry must be in the future.",
    "LINK_REVOKED": "This link was revoked and stays so. Make a new one.",
    "PAGE_TOKEN_INVALID": "This page of the list does not belong to this search. Start again at the first page.",
    "PAGE_UNKNOWN": "The portal has no such page.",
    "PERMISSION_MISSING": "Your role does not allow this.",
    "REF_TAKEN": "Another client has this id already.",
    "REQUEST_ID_REUSED": "This request id was used for something else.",
    "SIGN_IN_REFUSED": "The e-mail address or the password is wrong.",
    "TARGET_NOT_ALLOWED": "This address may not be linked to. It must be https and a host that your agency allows.",
}

# The API is flat and has its own words; the contract between the services nests and has others.
_RESOURCES = ("portal", "client", "campaign", "message", "link", "redirect", "filter", "agency", "user", "api_key")
_FIELDS = {
    "devices": "device",
    "kinds": "kind",
    "link_states": "link_state",
    "verdicts": "verdict",
    "start_time": "from",
    "end_time": "to",
    "name": "id",
}


@dataclass(frozen=True)
class Problem:
    """An error, ready to be shown."""

    status: int
    title: str
    reason: str
    errors: list[tuple[str, str]]

    def as_json(self) -> dict[str, Any]:
        """Returns the body of application/problem+json."""
        return {
            "type": "urn:opennotice:problem:" + self.reason.lower().replace("_", "-"),
            "title": self.title,
            "status": self.status,
            "reason": self.reason,
            "errors": [{"field": field, "message": message} for field, message in self.errors],
        }


def field_name(field: str) -> str:
    """Returns what the API calls a field of the contract between the services."""
    head, dot, rest = field.partition(".")
    inner = rest if dot and head in _RESOURCES else field
    # "devices[2]" is one of the values of the parameter `device`.
    return _FIELDS.get(inner.partition("[")[0], inner)


def problem_of(error: ServiceError) -> Problem:
    """Returns how an error of a service is shown."""
    status = _STATUS.get(error.code, 500)
    if error.reason == "BODY_TOO_LARGE":
        status = 413
    if status == 500:
        return Problem(500, _TITLES[500], "INTERNAL", [("", "internal error")])
    told = _SENTENCES.get(error.reason)
    if status == 503 and told is None:
        told = "It was not possible to get an answer in time. Try again in a moment."
    errors = [(field_name(field), message) for field, message in error.fields]
    return Problem(status, _TITLES[status], error.reason, errors or [("", told or error.message)])


def sentence_of(error: ServiceError) -> str:
    """Returns one sentence for a person, for pages that show an error where it happened."""
    return _SENTENCES.get(error.reason) or problem_of(error).errors[0][1]


def _problem_of_http(error: HTTPException) -> Problem:
    """Returns how an error that Litestar found is shown."""
    if isinstance(error, ValidationException):
        errors = _validation_errors(error)
        return Problem(422, _TITLES[422], "FIELDS_INVALID", errors)
    if error.status_code == 400:
        return Problem(422, _TITLES[422], "BODY_MALFORMED", [("body", "cannot be read: " + error.detail[:200])])
    reasons = {404: "PATH_UNKNOWN", 405: "METHOD_NOT_ALLOWED", 413: "BODY_TOO_LARGE", 421: "HOST_UNKNOWN"}
    title = _TITLES.get(error.status_code, "The request cannot be answered")
    return Problem(error.status_code, title, reasons.get(error.status_code, "REQUEST_REFUSED"), [("", title)])


_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")
_MISSING_FIELD = re.compile(r"missing required field `([^`]*)`")


def _validation_errors(error: ValidationException) -> list[tuple[str, str]]:
    """Reads the fields at fault out of what msgspec says."""
    found = []
    for entry in error.extra if isinstance(error.extra, list) else []:
        message, path = str(entry.get("message", "is wrong")), str(entry.get("key", ""))
        path = path.removeprefix("data").lstrip(".")
        for pattern, words in ((_UNKNOWN_FIELD, "is not a field of this request"), (_MISSING_FIELD, "is required")):
            if match := pattern.search(message):
                path, message = f"{path}.{match[1]}" if path else match[1], words
        found.append((path or "body", message))
    return found or [("body", error.detail)]


def show_service_error(request: Request[Any, Any, Any], error: ServiceError) -> Response[Any]:
    """Answers with an error that a service meant."""
    if isinstance(error, Unauthenticated) and not _is_api(request):
        return _to_sign_in(request)
    problem = problem_of(error)
    if problem.status == 500:
        _log.error("a service failed", reason=error.reason, path=request.url.path)
    return _show(request, problem)


def show_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """Answers with an error that Litestar found: no such path, a body that does not fit."""
    return _show(request, _problem_of_http(error), error.headers)


def show_unforeseen(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Answers with nothing but that it failed; the log has the rest."""
    _log.error("request failed", path=request.url.path, exc_info=error)
    return _show(request, Problem(500, _TITLES[500], "INTERNAL", [("", "internal error")]))


def _is_api(request: Request[Any, Any, Any]) -> bool:
    return request.url.path.startswith(API_PREFIX)


def _show(request: Request[Any, Any, Any], problem: Problem, more: dict[str, str] | None = None) -> Response[Any]:
    headers = {"cache-control": "no-store"}
    if more and "allow" in {name.lower() for name in more}:
        headers["allow"] = next(value for name, value in more.items() if name.lower() == "allow")
    if problem.status in (429, 503):
        headers["retry-after"] = RETRY_AFTER_SECONDS
    if _is_api(request):
        if problem.status == 401:
            headers["www-authenticate"] = 'Bearer realm="OpenNotice"'
        return Response(problem.as_json(), status_code=problem.status, media_type=PROBLEM_TYPE, headers=headers)
    page: Response[Any] = request.app.state.error_page(request, problem)
    page.status_code = problem.status
    page.headers.update(headers)
    return page


def _to_sign_in(request: Request[Any, Any, Any]) -> Response[Any]:
    """Sends a browser to the sign-in page and from there back to where it was."""
    page = request.headers.get("hx-current-url", "") if "hx-request" in request.headers else ""
    wanted = re.sub(r"^https?://[^/]+", "", page) or (str(request.url.path) if request.method == "GET" else "/")
    if not page and request.method == "GET" and request.url.query:
        wanted += f"?{request.url.query}"
    target = f"{SIGN_IN_PATH}?next={quote(wanted, safe='/')}" if wanted != "/" else SIGN_IN_PATH
    if "hx-request" in request.headers:
        return Response(None, status_code=200, headers={"hx-redirect": target, "cache-control": "no-store"})
    return Redirect(target, status_code=303, headers={"cache-control": "no-store"})


def local_path(text: str | None) -> str:
    """Returns where to go after sign-in: a path of this site, or the start page for anything else."""
    if text and re.fullmatch(r"/(?![/\\])[^\x00-\x20\\]*", text) and not text.startswith(SIGN_IN_PATH):
        return text
    return "/"


EXCEPTION_HANDLERS: Any = {
    ServiceError: show_service_error,
    HTTPException: show_http_error,
    Exception: show_unforeseen,
}
