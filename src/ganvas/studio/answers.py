"""Errors of the studio as JSON, and the files of its page."""

from __future__ import annotations

import logging
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from ganvas.errors import GanvasError
from ganvas.studio import schemas
from ganvas.studio.context import Json
from ganvas.studio.errors import AbsentError, BusyError, ConflictError, ForbiddenError, TooLargeError

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""Media types of the files of the page, by ending."""
_STATUSES: dict[type[GanvasError], int] = {
    ForbiddenError: 403,
    AbsentError: 404,
    ConflictError: 409,
    TooLargeError: 413,
    BusyError: 503,
}
_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": schemas.Error, "description": "The request does not fit this model or this file"},
    401: {"content": _ERROR, "description": "The token is missing"},
    403: {"content": _ERROR, "description": "Request from another site, or not allowed"},
    404: {"content": _ERROR, "description": "No such run, model, image or job"},
    409: {
        "content": _ERROR,
        "description": "Conflict: another model, other weights, a name in use, a running training",
    },
    413: {"content": _ERROR, "description": "The request is too large"},
    414: {"content": _ERROR, "description": "The URL is too long: send the recipe by POST"},
    422: {"content": _ERROR, "description": "The request does not match this documentation"},
    503: {"content": _ERROR, "description": "Busy: retry after Retry-After seconds"},
}
"""The first names the model, which defines the schema that the others refer to: FastAPI builds a validator for each."""


def refusals(api: FastAPI) -> None:
    """Return all errors as {"error": sentence}."""

    @api.exception_handler(GanvasError)
    def of_ganvas(_: Request, error: GanvasError) -> Json:
        status = next((code for kind, code in _STATUSES.items() if isinstance(error, kind)), 400)
        headers = {"retry-after": str(error.seconds)} if isinstance(error, BusyError) else {}
        return Json({"error": str(error)}, status, headers)

    @api.exception_handler(RequestValidationError)
    def of_form(_: Request, error: RequestValidationError) -> Json:
        return Json({"error": schemas.error_in_words(list(error.errors()))}, 422)

    @api.exception_handler(HTTPException)
    def of_http(request: Request, error: HTTPException) -> Json:
        sentence = {
            400: "the request cannot be read: expected a JSON body",
            404: f"{request.url.path[:200]} does not exist: see GET /api/openapi.json",
            405: f"{request.method} is not supported for {request.url.path[:200]}: see GET /api/openapi.json",
        }.get(error.status_code, str(error.detail))
        headers = dict(error.headers or {})
        if error.status_code == 405:  # Starlette lists the methods of only one route
            known = [
                one.methods or set() for one in api.routes if isinstance(one, APIRoute) and one.path == request.url.path
            ]
            headers["allow"] = ", ".join(sorted(set().union(*known)))
        return Json({"error": sentence}, error.status_code, headers)

    @api.exception_handler(Exception)
    def of_code(_: Request, error: Exception) -> Json:
        logging.getLogger("ganvas.studio").error("unexpected", exc_info=error)
        return Json({"error": f"internal error ({type(error).__name__}): see the terminal of the studio"}, 500)


def add_pages(api: FastAPI) -> None:
    """Serve the page and its parts, the files of this package at the start."""
    content = {file.name: file.read_bytes() for file in (resources.files("ganvas.studio") / "static").iterdir()}

    def static(name: str) -> Response:
        if name not in content:
            raise HTTPException(404)
        kind = _TYPES[name.rpartition(".")[2]]
        return Response(content[name], media_type=kind, headers={"cache-control": "no-cache"})

    @api.get("/", include_in_schema=False)
    def index() -> Response:
        return static("index.html")

    @api.get("/api", include_in_schema=False)
    def documentation() -> Response:
        return static("api.html")

    @api.get("/static/{name}", include_in_schema=False)
    def part(name: str) -> Response:
        return static(name)
