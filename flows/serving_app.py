"""The HTTP side of `fluxline serve`: a page at /, POST /generate, GET /models and GET /health.

A refusal is {"error": {"field": ..., "message": ...}}, never a traceback: 422 for a field out of its range, 400 for
what is no JSON, 413 for too much of it, 503 with Retry-After when too many wait.
"""

import base64
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.environment import keep_fault
from flows.serving_page import PAGE
from fluxmodel.drawing_request import DrawingAnswer, DrawingRequest, RequestError, refused
from tasks.serving import BusyError, Desk, GoneError, Shelf, choose

MOST_BYTES = 16_384
"""Of a request's body: the longest prompt, escaped character by character, and everything else beside it."""
_PAGE_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class GenerateRequest(DrawingRequest):
    """What POST /generate takes."""

    model: str = Field(default="", max_length=256, description="One of the served models; default the first.")


def serving_app(shelf: Shelf, desk: Desk) -> FastAPI:
    """Return the application that draws with what stands on the shelf when a request comes."""
    app = FastAPI(
        title="Fluxline", version=version("fluxline"), docs_url=None, redoc_url=None
    )  # FastAPI's documentation pages load their scripts from elsewhere
    app.add_middleware(_Bounded)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(HTTPException)(_http_error)
    _add_pages(app, shelf, desk)

    @app.post("/generate", response_model=DrawingAnswer)
    async def generate(asked: GenerateRequest, request: Request) -> Response:
        try:
            model = choose(shelf.versions, asked.model).model
            drawing = DrawingRequest.model_construct(**asked.model_dump(exclude={"model"}))
            model.check(drawing)
            is_png = "image/png" in request.headers.get("accept", "")
            if is_png and asked.num_images > 1:
                raise RequestError(
                    "num_images", "one image fits into a PNG; accept application/json for more"
                )
            answer = await desk.draw(lambda: model.answer(drawing), lambda: _leaves(request))
        except RequestError as error:
            return _refusal(422, error.field, error.message)
        except BusyError as error:
            return _refusal(503, "", str(error), {"Retry-After": str(error.retry_seconds)})
        except GoneError:
            return Response(status_code=499)  # nobody reads it
        except Exception as error:
            said = f"a fault of ours ({type(error).__name__}); it is described in {keep_fault()}"
            return _refusal(500, "", said)
        if is_png:
            return Response(base64.b64decode(answer.images[0].png), media_type="image/png")
        return Response(answer.model_dump_json(), media_type="application/json")

    return app


async def _leaves(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add_pages(app: FastAPI, shelf: Shelf, desk: Desk) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE, headers={"Content-Security-Policy": _PAGE_POLICY})

    @app.get("/models")
    async def models() -> list[dict[str, Any]]:
        return [served.told() for served in shelf.versions]

    @app.get("/health")
    async def health() -> dict[str, Any]:
        labels = [served.label for served in shelf.versions]
        return {
            "status": "ok",
            "models": labels,
            "waiting": desk.waiting,
            "limit": desk.limit,
            "drawn": desk.drawn,
        }


class _Bounded:
    """Refuses a large body unread."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None
        if scope["type"] == "http" and scope["method"] == "POST":
            length = Headers(scope=scope).get("content-length", "")
            if not length.isdecimal():
                refusal = _refusal(411, "", "say the body's length in the header Content-Length")
            elif int(length) > MOST_BYTES:
                refusal = _refusal(413, "", f"the body is {length} bytes; send at most {MOST_BYTES}")
        await (refusal or self.app)(scope, receive, send)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _refusal(400, "", "the body is no JSON")
    place = [str(part) for part in first["loc"] if part != "body"]
    if not place:
        return _refusal(
            422, "", 'send a JSON object such as {"prompt": "a red circle"}, Content-Type application/json'
        )
    fault = refused(first | {"loc": place})
    return _refusal(422, fault.field, fault.message)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refusal(error.status_code, "", str(error.detail), dict(error.headers or {}))


def _refusal(status: int, field: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"field": field, "message": message}}, status, headers)
