"""The Open Inference Protocol, version 2, over HTTP: what KServe, Triton and their clients speak."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from pydantic import Field

from coatnet.classifier import Prediction
from coatnet.frozen import Frozen
from coatnet.serving.asking import ask
from coatnet.serving.config import LONGEST_TIMEOUT
from coatnet.serving.messages import Classify
from coatnet.serving.problems import LOADING, Problem, ProblemError
from coatnet.serving.state import State, Timeout, problem_responses
from coatnet.version import __version__

VERSION = "1"
"""There is one version of the model: what was loaded last."""
Parameters = dict[str, str | int | float | bool]


class InputTensor(Frozen):
    """Image files, each as base64."""

    name: Literal["image"]
    shape: Annotated[list[int], Field(min_length=1, max_length=1)]
    """Number of images."""
    datatype: Literal["BYTES"]
    parameters: Parameters = Field(default_factory=dict)
    data: Annotated[list[Annotated[str, Field(json_schema_extra={"format": "base64-image"})]], Field(min_length=1)]


class OutputName(Frozen):
    """An output that is asked for."""

    name: Literal["probabilities", "label"]
    parameters: Parameters = Field(default_factory=dict)


class InferRequest(Frozen):
    """Body of `infer`."""

    id: str | None = None
    parameters: Parameters = Field(default_factory=dict)
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: list[OutputName] | None = None
    """Default: both."""


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

    # As defaults: a name from within a function cannot be found again in an annotation.
    def know_model(model: str = Path(json_schema_extra={"enum": [state.config.name]})) -> None:
        if model != state.config.name:
            raise ProblemError(Problem(404, "no_such_model", "This model is not served here."))

    def know_version(version: str = Path(json_schema_extra={"enum": [VERSION]})) -> None:
        if version != VERSION:
            raise ProblemError(Problem(404, "no_such_version", "This version is not served here."))

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

    for prefix, is_known in {
        "/models/{model}": [Depends(know_model)],
        "/models/{model}/versions/{version}": [Depends(know_model), Depends(know_version)],
    }.items():

        @router.get(prefix, responses=problem_responses(404, 503), dependencies=is_known)
        async def metadata() -> ModelMetadata:
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

        @router.get(f"{prefix}/ready", responses=problem_responses(404, 503), dependencies=is_known)
        async def model_ready() -> dict[str, bool]:
            state.check_ready()
            return {"ready": True}

        @router.post(
            f"{prefix}/infer",
            responses=problem_responses(400, 404, 413, 415, 422, 429, 503, 504),
            dependencies=is_known,
        )
        async def infer(body: InferRequest, request: Request, timeout: Timeout = LONGEST_TIMEOUT) -> InferResponse:
            predictions = await ask(
                request, state.batcher, _images(body, state), Classify(top=None), state.timeout(timeout)
            )
            names = [
                output.name for output in body.outputs or [OutputName(name="probabilities"), OutputName(name="label")]
            ]
            outputs = [_output(name, predictions) for name in names]
            return InferResponse(model_name=state.config.name, model_version=VERSION, id=body.id, outputs=outputs)

    return router


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
