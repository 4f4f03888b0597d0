"""The Open Inference Protocol, version 2, over HTTP: what KServe, Triton and their clients speak."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import ConfigDict, Field

from coatnet.classifier import Prediction
from coatnet.frozen import Frozen
from coatnet.serving import binary_tensors
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
    shape: Annotated[list[int], Field(min_length=1, max_length=2)]
    """Number of images; a second dimension of one is taken too."""
    datatype: Literal["BYTES"]
    parameters: Parameters = Field(default_factory=dict)
    data: Annotated[list[Annotated[str, Field(json_schema_extra={"format": "base64-image"})]], Field(min_length=1)] = (
        Field(default_factory=list, validate_default=False)
    )
    """Not there if the parameter `binary_data_size` says that it follows the JSON."""


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
    parameters: Parameters | None = None
    data: list[float] | list[str] | None = None
    """Not there if the parameter `binary_data_size` says that it follows the JSON."""


class InferResponse(Frozen):
    """Answer of `infer`."""

    model_name: str
    model_version: str
    id: str | None = None
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
        return {"name": "coatnet", "version": __version__, "extensions": ["binary_tensor_data", "classification"]}

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
        response_model=InferResponse,
    )
    async def infer(request: Request, timeout: Timeout = LONGEST_TIMEOUT) -> Response:
        text, rest = binary_tensors.split(await request.body(), request.headers.get(binary_tensors.JSON_LENGTH))
        body = await parse(text, InferRequest, state.batcher.capacity + OTHER_VALUES)
        outputs = _wanted(body)
        images = _images(body.inputs[0], rest, state.batcher.capacity)
        predictions = await ask(request, state.batcher, images, Classify(top=None), state.timeout(timeout))
        return _answer(state, body, [_output(each, predictions) for each in outputs])


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


def _wanted(body: InferRequest) -> list[OutputName]:
    """The outputs that are asked for, each with whether it is to be binary.

    Raises:
        ProblemError: classes are asked for of other than the probabilities, or not at least one.
    """
    as_bytes = body.parameters.get("binary_data_output") is True
    asked = body.outputs or [OutputName(name="probabilities"), OutputName(name="label")]
    for each in asked:
        count = each.parameters.get("classification", 1)
        if each.name != "probabilities" and "classification" in each.parameters:
            raise ProblemError(Problem(400, "no_classes", "Classification is of the output probabilities."))
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ProblemError(Problem(400, "no_classes", "Classification is a number of classes, at least 1."))
    return [each.replace(parameters={"binary_data": as_bytes, **each.parameters}) for each in asked]


def _images(tensor: InputTensor, rest: bytes, most: int) -> list[bytes]:
    """The files in a request.

    Args:
        tensor: what is said of them.
        rest: what follows the JSON.
        most: images that can ever wait.

    Raises:
        ProblemError: more than that, other than was said, or no base64.
    """
    size = tensor.parameters.get("binary_data_size", 0)
    if size != len(rest):
        detail = f"The parameter binary_data_size is {size!r:.40}, and {len(rest)} bytes follow the JSON."
        raise ProblemError(Problem(400, "wrong_length", detail))
    if rest and tensor.data:
        raise ProblemError(Problem(400, "wrong_length", "The images are in the JSON and follow it; send them once."))
    count = len(tensor.data)
    if count > most:
        raise ProblemError(Problem(413, "too_many_images", f"{count} images are above {most}, all that may wait."))
    try:
        found = [base64.b64decode(text, validate=True) for text in tensor.data] or binary_tensors.images(rest, most)
    except (binascii.Error, ValueError):
        raise ProblemError(Problem(400, "not_base64", "An image is not base64.")) from None
    if tensor.shape not in ([len(found)], [len(found), 1]) or not found:
        detail = f"The shape is {tensor.shape}, but there are {len(found)} images."
        raise ProblemError(Problem(400, "wrong_shape", detail))
    return found


def _output(wanted: OutputName, predictions: list[Prediction]) -> tuple[OutputTensor, bytes]:
    """A tensor as it is said in JSON, and what follows the JSON of it."""
    shape, datatype, data = [len(predictions)], "BYTES", [prediction.label for prediction in predictions]
    packed = b""
    if "classification" in wanted.parameters:
        rows = [_classes(prediction, int(wanted.parameters["classification"])) for prediction in predictions]
        shape, data = [len(rows), len(rows[0])], [each for row in rows for each in row]
    if wanted.name == "probabilities" and "classification" not in wanted.parameters:
        floats = [probability for prediction in predictions for _, probability in prediction.top]
        shape, datatype = [len(predictions), len(predictions[0].top)], "FP32"
        packed = binary_tensors.of_floats(floats)
        told: list[float] | list[str] = floats
    else:
        packed = binary_tensors.of_texts(data)
        told = data
    if wanted.parameters.get("binary_data") is True:
        size: Parameters = {"binary_data_size": len(packed)}
        return OutputTensor(name=wanted.name, shape=shape, datatype=datatype, parameters=size), packed
    return OutputTensor(name=wanted.name, shape=shape, datatype=datatype, data=told), b""


def _classes(prediction: Prediction, count: int) -> list[str]:
    """The best classes as Triton's classification extension writes them: `probability:index:name`."""
    order = sorted(range(len(prediction.top)), key=lambda index: -prediction.top[index][1])
    return [f"{prediction.top[index][1]:f}:{index}:{prediction.top[index][0]}" for index in order[:count]]


def _answer(state: State, body: InferRequest, outputs: Sequence[tuple[OutputTensor, bytes]]) -> Response:
    told = InferResponse(
        model_name=state.config.name, model_version=VERSION, id=body.id, outputs=[tensor for tensor, _ in outputs]
    )
    text = told.model_dump_json(exclude_none=True).encode()
    packed = b"".join(data for _, data in outputs)
    if not packed:
        return Response(text, media_type="application/json")
    headers = {binary_tensors.JSON_LENGTH: str(len(text))}
    return Response(text + packed, headers=headers, media_type="application/octet-stream")
