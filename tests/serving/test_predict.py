"""What is answered: the same as `predict`, by each way to ask."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

import coatnet
from coatnet.classifier import Classifier
from coatnet.cli import main
from coatnet.explanation.overlay import attention_tiles, enlarged, heat_layer
from serving.conftest import MAX_BYTES, picture
from serving.servers import Server, check_problem


@pytest.fixture(scope="module")
def expected(tiny_classifier, pictures):
    classifier = Classifier.load(tiny_classifier, device="cpu")
    return [classifier.predict(data, top=2).as_dict() for data in pictures]


def infer(server, images, **changes):
    encoded = [base64.b64encode(image).decode() for image in images]
    tensor = {"name": "image", "shape": [len(images)], "datatype": "BYTES", "data": encoded, **changes}
    return server.client.post("/v2/models/tiny/infer", json={"id": "mine", "inputs": [tensor]})


def test_the_answer_is_that_of_predict(server, pictures, expected):
    assert [server.predict(data, top=2).json() for data in pictures] == expected


def test_image_jpg_is_a_name_for_jpeg_too(server, pictures, expected):
    assert server.predict(pictures[1], top=2, headers={"content-type": "image/jpg"}).json() == expected[1]


def test_a_form_is_answered_as_the_file(server, pictures, expected):
    answers = [
        server.client.post("/predict", params={"top": 2}, files={"image": ("a.png", data)}).json() for data in pictures
    ]
    assert answers == expected


def test_all_classes_and_their_time(server, pictures):
    response = server.predict(pictures[0], top=100)
    assert len(response.json()["top"]) == 3
    assert sum(probability for _, probability in response.json()["top"]) == pytest.approx(1)
    assert response.headers["server-timing"].startswith("answer;dur=")


def test_infer_is_predict_in_order_of_classes(server, pictures, expected):
    answer = infer(server, pictures[:5]).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "1", "mine")
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["probabilities"]["shape"] == [5, 3]
    assert outputs["label"]["data"] == [one["label"] for one in expected[:5]]
    rows = outputs["probabilities"]["data"]
    for index, one in enumerate(expected[:5]):
        by_name = dict(zip(("circle", "cross", "square"), rows[3 * index : 3 * index + 3], strict=True))
        assert by_name[one["label"]] == pytest.approx(one["probability"], abs=1e-5)
        assert sum(by_name.values()) == pytest.approx(1)


def test_metadata_and_health_of_the_protocol(server):
    get = server.client.get
    assert get("/v2").json()["name"] == "coatnet"
    assert get("/v2/health/live").json() == {"live": True}
    for path in ("/v2/health/ready", "/v2/models/tiny/ready", "/v2/models/tiny/versions/1/ready"):
        assert get(path).json() == {"ready": True}
    metadata = get("/v2/models/tiny/versions/1").json()
    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert metadata["outputs"][0]["shape"] == [-1, 3]
    check_problem(get("/v2/models/other"), 404, "no_such_model")
    check_problem(get("/v2/models/tiny/versions/2"), 404, "no_such_version")


def test_infer_does_not_ask_for_a_content_type(server, pictures, expected):
    """tritonclient sends none."""
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(pictures[0]).decode()]}
    answer = server.client.post("/v2/models/tiny/infer", content=json.dumps({"inputs": [tensor]}))
    assert "content-type" not in answer.request.headers
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    assert outputs["label"] == [expected[0]["label"]]


def test_what_infer_refuses(server, pictures):
    check_problem(infer(server, pictures[:2], shape=[3]), 400, "wrong_shape")
    check_problem(infer(server, pictures[:1], data=["%"]), 400, "not_base64")
    check_problem(infer(server, pictures[:1], datatype="FP32"), 422, "invalid")
    check_problem(infer(server, pictures[:1] * 65), 413, "too_many_images")
    refused = infer(server, [pictures[0], pictures[1][:90]])
    check_problem(refused, 400, "corrupt")
    assert refused.json()["detail"].startswith("Image 1: ")


def body_of_infer(picture, **changes):
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(picture).decode()]}
    return {"inputs": [tensor], **changes}


def triton_body(picture, outputs=b"", size=None):
    """What tritonclient 2.73 sends by default, byte for byte: the tensor after the JSON."""
    size = len(picture) + 4 if size is None else size
    text = (
        b'{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":%d}}],' % size
        + (outputs or b'"parameters":{"binary_data_output":true}')
        + b"}"
    )
    body = text + len(picture).to_bytes(4, "little") + picture
    return {"content": body, "headers": {"inference-header-content-length": str(len(text))}}


def binary_outputs(answer):
    """The outputs of a binary answer, each with its bytes."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    told, rest, found = json.loads(answer.content[:length]), answer.content[length:], {}
    for output in told["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]], rest = (output, rest[:size]), rest[size:]
    assert rest == b""
    return found


def test_triton_by_default_sends_and_gets_binary_tensors(server, pictures, expected):
    post = server.client.post
    for seed in range(3):  # PNG, JPEG, WebP
        for data in (pictures[seed], base64.b64encode(pictures[seed])):
            found = binary_outputs(post("/v2/models/tiny/infer", **triton_body(data)))
            output, raw = found["probabilities"]
            assert (output["shape"], output["datatype"], "data" in output) == ([1, 3], "FP32", False)
            assert max(np.frombuffer(raw, "<f4")) == pytest.approx(expected[seed]["probability"], abs=1e-5)
            label = expected[seed]["label"].encode()
            assert found["label"][1] == len(label).to_bytes(4, "little") + label


def test_triton_asks_for_the_best_classes(server, pictures, expected):
    asked = (
        b'"outputs":[{"name":"label","parameters":{"binary_data":true}},'
        b'{"name":"probabilities","parameters":{"classification":2,"binary_data":true}}]'
    )
    answer = server.client.post("/v2/models/tiny/infer", **triton_body(pictures[0], asked))
    output, raw = binary_outputs(answer)["probabilities"]
    names = ("circle", "cross", "square")
    texts = [f"{each:f}:{names.index(name)}:{name}".encode() for name, each in expected[0]["top"]]
    assert (output["shape"], output["datatype"]) == ([1, 2], "BYTES")
    assert raw == b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    wrong = body_of_infer(pictures[0], outputs=[{"name": "label", "parameters": {"classification": 2}}])
    check_problem(server.client.post("/v2/models/tiny/infer", json=wrong), 400, "no_classes")


def test_what_of_binary_tensors_is_refused(server, pictures):
    def refused(code, status=400, length=None, **changes):
        sent = triton_body(pictures[0], **changes)
        if length is not None:
            sent["headers"]["inference-header-content-length"] = length
        check_problem(server.client.post("/v2/models/tiny/infer", **sent), status, code)

    refused("wrong_length", size=3)
    for length in ("0", "-1", "x", "9" * 5000, "100000"):
        refused("wrong_length", length=length)
    refused("invalid", 422, length="10")
    cut = triton_body(pictures[0])
    cut["content"] = cut["content"].replace(len(pictures[0]).to_bytes(4, "little"), b"\xff\xff\xff\xff", 1)
    check_problem(server.client.post("/v2/models/tiny/infer", **cut), 400, "wrong_length")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ('{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","data":[' + "1," * 600_000 + "1]}]}", 413, None),
        ('{"id":' + "[" * 600_000 + "]" * 600_000 + "}", 413, None),
        ('{"id":' + "[" * 1000 + "]" * 1000 + "}", 422, "invalid"),
        ('{"id":' + "1" * 600_000 + "}", 422, "invalid"),
        ('{"id":1.' + "1" * 600_000 + "}", 422, "invalid"),
        ('{"id":1e999}', 422, "invalid"),
        ('{"id":NaN}', 422, "invalid"),
        ('{"id":"a","id":"b"}', 422, "invalid"),
        ('{"' + "k" * 600_000 + '":NaN}', 422, "invalid"),
        ('{"parameters":{"' + "k" * 600_000 + '":[]}}', 422, "invalid"),
        ('{"id":"\\ud800","inputs":[]}', 422, "invalid"),
        (b'{"id":"\xff"}', 422, "invalid"),
        ("", 422, "invalid"),
        ("[]", 422, "invalid"),
    ],
)
def test_json_that_would_cost_much_is_refused_before_it_does(server, body, status, code):
    """The cause, not the seconds: 1.2 MB of `1,` took the event loop for ten when each element had an error."""
    answer = server.client.post("/v2/models/tiny/infer", content=body)
    check_problem(answer, status, code or "too_many_values")
    assert len(answer.content) < 2000


def test_infer_refuses_more_outputs_than_there_are_and_takes_keys_of_clients(server, pictures):
    post = server.client.post
    names = [{"name": "label"}] * 3
    check_problem(post("/v2/models/tiny/infer", json=body_of_infer(pictures[0], outputs=names)), 422, "invalid")
    known = body_of_infer(pictures[0], outputs=names[:1], model_name="tiny", model_version=None)
    assert [output["name"] for output in post("/v2/models/tiny/infer", json=known).json()["outputs"]] == ["label"]
    surrogate = json.dumps(body_of_infer(pictures[0], id="\ud800"))
    check_problem(post("/v2/models/tiny/infer", content=surrogate), 422, "invalid")


def test_what_predict_refuses(server, pictures):
    post = server.client.post
    check_problem(server.predict(b"no picture"), 415, "unsupported_format")
    check_problem(server.predict(b""), 400, "empty")
    check_problem(server.predict(pictures[0][:100]), 400, "truncated")
    check_problem(server.predict(picture(0, "GIF")), 415, "unsupported_format")
    check_problem(server.predict(picture(0, "PNG", (1, 101))), 400, "extreme_aspect")
    check_problem(server.predict(pictures[0], top=0), 422, "invalid")
    check_problem(server.predict(pictures[0], headers={"x-timeout-seconds": "soon"}), 422, "invalid")
    check_problem(post("/predict", content=b"x", headers={"content-type": "text/plain"}), 415, "unsupported_media_type")
    check_problem(post("/predict", content=b"x"), 415, "unsupported_media_type")
    packed = {"content-type": "image/png", "content-encoding": "gzip"}
    check_problem(post("/predict", content=b"x", headers=packed), 415, "unsupported_encoding")
    check_problem(post("/predict", data={"image": "x"}, files={"other": b"y"}), 400, "malformed_form")
    form = {"content-type": "multipart/form-data; boundary=x"}
    check_problem(post("/predict", content=b"--x\r\n\r\nabc", headers=form), 400, "malformed_form")
    check_problem(post("/predict", content=b"", headers={"content-type": "multipart/form-data"}), 400, "malformed_form")


def test_other_addresses_and_methods(server):
    check_problem(server.client.get("/nothing"), 404, "not_found")
    check_problem(server.client.get("/page/..%2fapp.py"), 404, "not_found")
    check_problem(server.client.get("/page/app.py"), 404, "not_found")
    check_problem(server.client.get("/predict"), 405, "method_not_allowed")
    check_problem(server.client.post("/v2", content=b"x"), 405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
def test_probes_may_ask_for_the_head_alone(server, path):
    answer = server.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_too_many_pixels_are_refused_by_the_header(server):
    """25 megapixels, where a user's own files may have 50."""
    buffer = io.BytesIO()
    Image.new("L", (6000, 4200)).save(buffer, "PNG")
    check_problem(server.predict(buffer.getvalue()), 413, "too_many_pixels")


def test_a_picture_is_turned_upright_as_predict_does(server, tiny_classifier):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(picture(3))).save(buffer, "JPEG", exif=exif)
    expected = Classifier.load(tiny_classifier, device="cpu").predict(buffer.getvalue())
    assert server.predict(buffer.getvalue()).json() == expected.as_dict()


def test_model_tells_what_the_page_needs(server):
    assert server.client.get("/model").json() == {
        "name": "tiny",
        "classes": ["circle", "cross", "square"],
        "image_size": [32, 32],
        "max_bytes": MAX_BYTES,
        "max_pixels": 25_000_000,
        "timeout": 10,
        "methods": ["grad_cam", "integrated_gradients", "rollout", "receptive_field", "attention"],
    }


def explain(server, data, **options):
    return server.client.post("/explain", content=data, headers={"content-type": "image/png"}, params=options)


def as_pixels(png):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def test_an_explanation_is_that_of_explain(server, tiny_classifier, pictures):
    classifier = Classifier.load(tiny_classifier, device="cpu")
    expected = coatnet.explain(classifier, pictures[0], methods=("grad_cam",))
    answer = explain(server, pictures[0]).json()
    assert (answer["label"], answer["probability"]) == (expected.label, pytest.approx(expected.probability))
    picture = as_pixels(answer["image"])
    assert (picture == enlarged(expected.image)).all()
    assert [layer["title"] for layer in answer["layers"]] == [one.title for one in expected.heat_maps]
    drawn = heat_layer(expected.heat_maps[-1], picture.shape[:2])
    assert np.abs(as_pixels(answer["layers"][-1]["png"]).astype(int) - drawn).max() <= 1
    assert answer["parts"] == []


def test_attention_is_that_of_the_place(server, tiny_classifier, pictures):
    classifier = Classifier.load(tiny_classifier, device="cpu")
    expected = coatnet.explain(classifier, pictures[0], methods=(), at=(0, 24))
    answer = explain(server, pictures[0], method="attention", row=0, column=0.75).json()
    block = expected.attention[0]
    assert [part["title"] for part in answer["parts"]] == [one.name for one in expected.attention]
    tiles = attention_tiles(block.parts(expected.token_of(block)))
    assert np.abs(as_pixels(answer["parts"][0]["png"]).astype(int) - tiles).max() <= 1
    other = explain(server, pictures[0], method="attention", row=0.9, column=0.1).json()
    assert other["layers"] != answer["layers"]


def test_every_method_that_is_offered_works(server, pictures):
    methods = server.client.get("/model").json()["methods"]
    assert methods == ["grad_cam", "integrated_gradients", "rollout", "receptive_field", "attention"]
    assert {explain(server, pictures[0], method=method).status_code for method in methods} == {200}


def test_what_explain_refuses(server, pictures):
    check_problem(explain(server, b"x"), 415, "unsupported_format")
    check_problem(explain(server, pictures[0], method="guess"), 422, "invalid")
    check_problem(explain(server, pictures[0], row=1), 422, "invalid")


def test_by_default_it_answers_as_predict_does_by_default(tiny_classifier, pictures):
    """In the fastest runtime there is, and explanations in torch all the same."""
    classifier = Classifier.load(tiny_classifier, runtime="auto", precision="auto")
    expected = [classifier.predict(data).as_dict() for data in pictures[:5]]
    with Server(tiny_classifier, how=()) as fastest:
        assert fastest.started["runtime"] == classifier.engine.description
        assert [fastest.predict(data).json() for data in pictures[:5]] == expected
        assert explain(fastest, pictures[0]).status_code == 200


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_an_exported_network_is_served_but_not_explained(tiny_classifier, tmp_path, pictures, kind):
    assert main(["export", str(tiny_classifier), "--format", kind, "--out", str(tmp_path / "out")]) == 0
    classifier = Classifier.load(tmp_path / "out", precision="auto")
    with Server(tmp_path / "out", how=()) as exported:
        assert exported.predict(pictures[0]).json() == classifier.predict(pictures[0]).as_dict()
        assert exported.client.get("/model").json()["methods"] == []
        check_problem(explain(exported, pictures[0]), 422, "does_not_apply")
