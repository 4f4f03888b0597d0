"""The Open Inference Protocol, version 2, over HTTP: what KServe, Triton and their clients speak."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from pydantic import ConfigDict, Field

from coatnet.classifier import Prediction
from coatnet.frozen import Frozen
from coatnet.serving.asking import ask
from coatnet.serving.config import LONGEST_TIMEOUT
from coatnet.serving.messages import Classify
from coatnet.serving.problems import LOADING, Problem, ProblemError
from coatnet.serving.state import State, Timeout, problem_responses
from coatnet.serving.strict_json import parse
from coatnet.version import __version__

VERSION = "1"
"""There is one version of the model: what was loaded last."""
OUTPUTS = ("probabilities", "label")
OTHER_VALUES = 1000
"""Of a request, beside its images: names, parameters, and what clients add of their own."""
Parameters = dict[str, str | int | float | bool]


class _Request(Frozen):
    """Clients add keys of their own, such as KServe's `model_name`, which the protocol lets servers pass over."""

    model_config = ConfigDict(extra="ignore")


class InputTensor(_Request):
    """Image files, each as base64."""

    name: Literal["image"]
    shape: Annotated[list[int], Field(min_length=1, max_length=1)]
    """Number of images."""
    datatype: Literal["BYTES"]
    parameters: Parameters = Field(default_factory=dict)
    data: Annotated[list[Annotated[str, Field(json_schema_extra={"format": "base64-image"})]], Field(min_length=1)]


class OutputName(_Request):
    """An output that is asked for."""

    name: Literal["probabilities", "label"]
    parameters: Parameters = Field(default_factory=dict)


class InferRequest(_Request):
    """Body of `infer`."""

    id: str | None = None
    parameters: Parameters = Field(default_factory=dict)
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[OutputName], Field(max_length=len(OUTPUTS))] | None = None
    """Default: both."""


_SCHEMA = InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")
INFER_SCHEMAS = _SCHEMA.pop("$defs")
"""The parts of the body, for the OpenAPI document: FastAPI does not see a body that it does not parse."""
INFER_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}}


class OutputTensor(Frozen):
    """`probabilities`, row by row in the order of the classes, or `label`."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float] | list[str]


class InferResponse(Frozen):
    """Answer of `infer`."""

    model_name: str
    model_version: str
    id: str | None
    outputs: list[OutputTensor]


class TensorMetadata(Frozen):
    """Name, datatype and shape of an input or output; -1 is any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Frozen):
    """What there is to know of the model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


def create_router(state: State) -> APIRouter:
    """The endpoints below /v2."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"])
    know_model, know_version = _known("model", state.config.name), _known("version", VERSION)
    _add_server(router, state)
    _add_model(router, state, "/models/{model}", [know_model])
    _add_model(router, state, "/models/{model}/versions/{version}", [know_model, know_version])
    return router


def _known(part: Literal["model", "version"], served: str) -> Any:
    """A dependency that sees that a part of the path names what is served."""

    # As a default: a name from within a function cannot be found again in an annotation.
    def check(named: str = Path(alias=part, json_schema_extra={"enum": [served]})) -> None:
        if named != served:
            raise ProblemError(Problem(404, f"no_such_{part}", f"This {part} is not served here."))

    return Depends(check)


def _add_server(router: APIRouter, state: State) -> None:
    @router.get("")
    async def server_metadata() -> dict[str, Any]:
        return {"name": "coatnet", "version": __version__, "extensions": []}

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready", responses=problem_responses(503))
    async def ready() -> dict[str, bool]:
        state.check_ready()
        return {"ready": True}


def _add_model(router: APIRouter, state: State, path: str, is_known: Sequence[Any]) -> None:
    @router.get(path, responses=problem_responses(404, 503), dependencies=is_known)
    async def metadata() -> ModelMetadata:
        return _metadata(state)

    @router.get(f"{path}/ready", responses=problem_responses(404, 503), dependencies=is_known)
    async def model_ready() -> dict[str, bool]:
        state.check_ready()
        return {"ready": True}

    @router.post(
        f"{path}/infer",
        responses=problem_responses(400, 404, 413, 415, 422, 429, 503, 504),
        dependencies=is_known,
        openapi_extra=INFER_BODY,
    )
    async def infer(request: Request, timeout: Timeout = LONGEST_TIMEOUT) -> InferResponse:
        body = await parse(await request.body(), InferRequest, state.batcher.capacity + OTHER_VALUES)
        images = _images(body, state)
        predictions = await ask(request, state.batcher, images, Classify(top=None), state.timeout(timeout))
        names = [output.name for output in body.outputs or ()] or OUTPUTS
        outputs = [_output(name, predictions) for name in names]
        return InferResponse(model_name=state.config.name, model_version=VERSION, id=body.id, outputs=outputs)


def _metadata(state: State) -> ModelMetadata:
    if state.model is None:
        raise ProblemError(LOADING)
    num_classes = len(state.model.class_names)
    return ModelMetadata(
        name=state.config.name,
        versions=[VERSION],
        platform="coatnet",
        inputs=[TensorMetadata(name="image", datatype="BYTES", shape=[-1])],
        outputs=[
            TensorMetadata(name="probabilities", datatype="FP32", shape=[-1, num_classes]),
            TensorMetadata(name="label", datatype="BYTES", shape=[-1]),
        ],
    )


def _images(body: InferRequest, state: State) -> list[bytes]:
    """The files in a request.

    Raises:
        ProblemError: more than can ever wait, other than was said, or no base64.
    """
    (tensor,) = body.inputs
    count = len(tensor.data)
    if tensor.shape != [count]:
        raise ProblemError(Problem(400, "wrong_shape", f"The shape is {tensor.shape}, but there are {count} images."))
    if count > state.batcher.capacity:
        most = state.batcher.capacity
        raise ProblemError(Problem(413, "too_many_images", f"{count} images are above {most}, all that may wait."))
    try:
        return [base64.b64decode(text, validate=True) for text in tensor.data]
    except (binascii.Error, ValueError):
        raise ProblemError(Problem(400, "not_base64", "An image is not base64.")) from None


def _output(name: str, predictions: list[Prediction]) -> OutputTensor:
    if name == "label":
        labels = [prediction.label for prediction in predictions]
        return OutputTensor(name=name, shape=[len(labels)], datatype="BYTES", data=labels)
    rows = [[probability for _, probability in prediction.top] for prediction in predictions]
    return OutputTensor(
        name=name, shape=[len(rows), len(rows[0])], datatype="FP32", data=[each for row in rows for each in row]
    )
