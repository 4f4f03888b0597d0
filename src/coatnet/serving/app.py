"""The application: its endpoints, and how its errors look."""

from __future__ import annotations

import base64
import time
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from coatnet.explanation.explain import METHODS
from coatnet.serving.admission import Admission
from coatnet.serving.asking import ask
from coatnet.serving.config import LONGEST_TIMEOUT
from coatnet.serving.description import (
    FORM_TYPE,
    IMAGE_BODY,
    IMAGE_TYPES,
    PROBLEM_SCHEMA,
    ExplainResponse,
    ModelResponse,
    PredictResponse,
)
from coatnet.serving.forms import image_of_form
from coatnet.serving.kserve import INFER_SCHEMAS, create_router
from coatnet.serving.messages import Classify, Explain, LookMethod, Ready
from coatnet.serving.metrics import Metrics
from coatnet.serving.problems import BUG, MEDIA_TYPE, ONE_AT_A_TIME, Problem, ProblemError
from coatnet.serving.state import State, Timeout, problem_responses
from coatnet.version import __version__

MOST_CLASSES = 1000
"""Classes listed in one answer of /predict."""
GRADIENT_PASSES = 3 * 64
"""What integrated gradients take, in forward passes: 64 steps, each of them once forward and once, at twice the price,
backward."""
NOT_EXPLAINED = Problem(422, "does_not_apply", "An exported network has no gradients.")
EXPLAIN_OFF = Problem(422, "does_not_apply", "This server was started with --no-explain.")
LOOK_METHODS = (*METHODS, "attention")
Place = Annotated[float, Query(ge=0, lt=1, description="A fraction of the image's height or width.")]
PAGE_HEADERS = {
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
PAGE_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def create_app(state: State) -> Admission:
    """The ASGI application.

    Args:
        state: the server.
    """
    # The interactive documentation would load its scripts from elsewhere; the description itself is at /openapi.json.
    # Clients of the inference protocol, Triton's among them, do not say that what they send is JSON.
    app = FastAPI(
        title="coatnet",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,
    )
    metrics = state.supervisor.metrics
    _add_errors(app, metrics)
    _add_operation(app, state, metrics)
    _add_predict(app, state)
    _add_explain(app, state)
    app.include_router(create_router(state))
    _add_page(app)
    app.openapi = lambda: _openapi(app, bool(state.config.token))  # type: ignore[method-assign]
    return Admission(app, state)


def _add_errors(app: FastAPI, metrics: Metrics) -> None:
    def answer(problem: Problem) -> Response:
        metrics.problems.labels(problem.code).inc()
        return Response(problem.body, problem.status, problem.headers, MEDIA_TYPE)

    @app.exception_handler(ProblemError)
    async def problem(request: Request, error: ProblemError) -> Response:
        return answer(error.problem)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return answer(Problem(422, "invalid", f"{where}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed"}
        found = answer(Problem(error.status_code, codes.get(error.status_code, "bad_request"), str(error.detail)))
        found.headers.update(error.headers or {})
        return found

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return answer(BUG)  # what raised it is logged by uvicorn


def _add_operation(app: FastAPI, state: State, metrics: Metrics) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, bool]:
        """The server runs."""
        return {"live": True}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", tags=["operation"], responses=problem_responses(503))
    async def readyz() -> dict[str, bool]:
        """Requests are taken."""
        state.check_ready()
        return {"ready": True}

    @app.get("/metrics", tags=["operation"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def show_metrics() -> Response:
        """Counters, for Prometheus."""
        return Response(metrics.text(), media_type=metrics.media_type)


def _add_predict(app: FastAPI, state: State) -> None:
    @app.get("/model", tags=["prediction"], responses=problem_responses(503))
    async def model() -> ModelResponse:
        """What is served, and what it takes."""
        state.check_ready()
        assert state.model is not None
        limits = state.config.limits
        return ModelResponse(
            name=state.config.name,
            classes=list(state.model.class_names),
            image_size=list(state.model.image_size),
            max_bytes=limits.max_bytes,
            max_pixels=limits.max_pixels,
            timeout=state.config.timeout,
            methods=list(LOOK_METHODS) if state.can_explain else [],
        )

    @app.post(
        "/predict",
        tags=["prediction"],
        response_model=PredictResponse,
        openapi_extra=IMAGE_BODY,
        responses=problem_responses(400, 408, 413, 415, 429, 503, 504),
    )
    async def predict(
        request: Request, top: Annotated[int, Query(ge=1, le=MOST_CLASSES)] = 5, timeout: Timeout = LONGEST_TIMEOUT
    ) -> Response:
        """Name what is to be seen in an image."""
        started = time.monotonic()
        image = await _image(request)
        (prediction,) = await ask(request, state.batcher, [image], Classify(top), state.timeout(timeout))
        taken = (time.monotonic() - started) * 1000
        return JSONResponse(prediction.as_dict(), headers={"server-timing": f"answer;dur={taken:.1f}"})


def _add_explain(app: FastAPI, state: State) -> None:
    @app.post(
        "/explain",
        tags=["prediction"],
        response_model=ExplainResponse,
        openapi_extra=IMAGE_BODY,
        responses=problem_responses(400, 408, 413, 415, 429, 503, 504),
    )
    async def explain(
        request: Request,
        method: LookMethod = "grad_cam",
        row: Place = 0.5,
        column: Place = 0.5,
        timeout: Timeout = LONGEST_TIMEOUT,
    ) -> Response:
        """Show what the classifier looked at: heat maps, or what the place at `row` and `column` attends to."""
        image = await _image(request)
        if state.is_explaining:
            raise ProblemError(ONE_AT_A_TIME)
        if not state.can_explain:
            raise ProblemError(NOT_EXPLAINED if state.config.explain else EXPLAIN_OFF)
        state.is_explaining = True
        try:
            end = time.monotonic() + state.timeout(timeout)
            ready = await state.explainer.ready(end - time.monotonic())
            seconds = end - time.monotonic()
            _check_time(ready, method, seconds)
            wanted = Explain(method, (row, column))
            (found,) = await ask(request, state.explainer.batcher, [image], wanted, seconds)
        finally:
            state.is_explaining = False
        return JSONResponse(
            {
                "label": found.label,
                "probability": found.probability,
                "image": _base64(found.image),
                "layers": [{"title": title, "png": _base64(png)} for title, png in found.layers],
                "parts": [{"title": title, "png": _base64(png)} for title, png in found.parts],
            }
        )


def _check_time(ready: Ready, method: LookMethod, seconds: float) -> None:
    """See that an explanation can be made in time, at the pace that was measured where it is made.

    Raises:
        ProblemError: it cannot.
    """
    expected = GRADIENT_PASSES / ready.tuned.rate
    if method == "integrated_gradients" and expected > seconds:
        detail = f"Integrated gradients would take about {expected:.0f} s, more than the {seconds:.1f} s there are."
        raise ProblemError(Problem(422, "too_slow", detail))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def _image(request: Request) -> bytes:
    """The file in the body.

    Raises:
        ProblemError: the content type is none of an image.
    """
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    body = await request.body()
    if kind == FORM_TYPE:
        return image_of_form(given, body)
    if kind in IMAGE_TYPES:
        return body
    expected = ", ".join((*IMAGE_TYPES, FORM_TYPE))
    raise ProblemError(Problem(415, "unsupported_media_type", f"Expected a Content-Type among {expected}."))


def _add_page(app: FastAPI) -> None:
    folder = files("coatnet.serving") / "page"
    found = {file.name: file.read_bytes() for file in folder.iterdir() if "." in file.name}

    def show(name: str) -> Response:
        kind = PAGE_TYPES[name.rpartition(".")[2]]
        return Response(found[name], media_type=kind, headers=PAGE_HEADERS)

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return show("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in found:
            raise HTTPException(404, "There is no such file.")
        return show(name)


def _openapi(app: FastAPI, has_token: bool) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {}).update(INFER_SCHEMAS, Problem=PROBLEM_SCHEMA)
        if has_token:
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"token": []}]
        app.openapi_schema = schema
    return app.openapi_schema
