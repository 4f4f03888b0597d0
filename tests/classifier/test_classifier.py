"""Every kind of image through the whole path, and the folder as the proof of what was saved."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from coatnet.classifier import Classifier, Prediction
from coatnet.classifier.classifier import softmax
from coatnet.data.images import ImageError
from coatnet.data.preprocess import Preprocess
from coatnet.errors import ConfigError, QualityError
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import create_model
from coatnet.runtime.engines import Engine, TorchEngine

NAMES = ("rose", "tulip", "daisy")


def tiny_model(**changes):
    config = CoAtNetConfig.from_layout("CT", (2, 1, 1), (8, 16, 32), image_size=32, num_classes=3, **changes)
    torch.manual_seed(0)
    return create_model(config)


class Echo(Engine):
    """Logits that are the means of the three channels: needs no network."""

    def logits(self, images):
        return images.mean(axis=(2, 3)).astype(np.float32)


@pytest.fixture
def echo():
    plain = Preprocess(image_size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
    return Classifier(Echo(), plain, NAMES)


@pytest.fixture
def photo():
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_path_bytes_a_pillow_image_and_an_array_are_one_image(tmp_path, echo, photo):
    (tmp_path / "a.png").write_bytes(png(photo))
    kinds = [tmp_path / "a.png", str(tmp_path / "a.png"), png(photo), Image.fromarray(photo), photo]
    alone = [echo.predict(image) for image in kinds]
    assert alone == [alone[0]] * 5
    assert echo.predict(kinds) == alone
    assert isinstance(alone[0], Prediction)


def test_probabilities_are_the_softmax_of_the_channel_means(echo):
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 1] = 255
    found = echo.predict(image)
    shares = np.exp([0, 1, 0]) / np.exp([0, 1, 0]).sum()
    assert found.label == "tulip"
    assert found.probability == pytest.approx(shares[1])
    assert [label for label, _ in found.top] == ["tulip", "rose", "daisy"]
    assert sum(probability for _, probability in found.top) == pytest.approx(1)
    assert json.loads(json.dumps(found.as_dict()))["top"][0] == ["tulip", found.probability]


def test_top_lists_that_many_classes(echo, photo):
    assert [len(echo.predict(photo, top=top).top) for top in (1, 2, 3, 9)] == [1, 2, 3, 3]
    with pytest.raises(ConfigError, match="top is 0"):
        echo.predict(photo, top=0)


def test_more_images_than_a_batch_keep_their_order(echo):
    images = np.zeros((70, 32, 32, 3), np.uint8)
    for index, image in enumerate(images):
        image[..., index % 3] = 200
    assert [found.label for found in echo.predict(list(images))] == [NAMES[i % 3] for i in range(70)]
    assert echo.predict([]) == []


def test_pillow_images_of_every_mode_follow_the_gate(echo, photo):
    picture = Image.fromarray(photo)
    clear = Image.new("RGBA", (40, 40), "red")
    clear.putalpha(0)
    white = echo.predict(np.full_like(photo, 255))
    assert echo.predict(clear) == white
    paletted = Image.new("P", (40, 40), 1)
    paletted.putpalette([0, 0, 0, 255, 0, 0])
    assert echo.predict(paletted) != white
    paletted.info["transparency"] = 1
    assert echo.predict(paletted) == white
    for mode in ("L", "P", "1", "CMYK", "YCbCr", "LA", "I", "F"):
        assert echo.predict(picture.convert(mode)).label in NAMES
    deep = Image.fromarray(np.full((40, 40), 65535, np.uint16))
    assert echo.predict(deep) == white
    grey = echo.predict(picture.convert("L"))
    assert len({probability for _, probability in grey.top}) == 1


def test_a_pillow_image_of_a_mode_without_a_known_way_is_refused(echo, photo):
    for mode in ("LAB", "HSV"):
        with pytest.raises(ImageError, match=f"unsupported_format: colour mode {mode}; expected grey, RGB or CMYK"):
            echo.predict(Image.fromarray(photo).convert(mode))


def test_pillow_images_are_turned_upright(echo):
    array = np.zeros((64, 128, 3), np.uint8)
    array[:, :32, 0] = 255  # red at the left, outside the centre crop; upright it is still outside
    array[:32, 32:96, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", exif=exif)
    with Image.open(io.BytesIO(buffer.getvalue())) as picture:
        assert echo.predict(picture) == echo.predict(buffer.getvalue())
        wide = Classifier(Echo(), echo.preprocess.replace(image_size=(32, 64)), NAMES)
        assert wide.predict(picture) == wide.predict(buffer.getvalue())
        assert wide.predict(picture) != wide.predict(array)


def test_a_file_that_cannot_be_read_is_named(tmp_path, echo):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    with pytest.raises(ImageError, match=r"bad\.png"):
        echo.predict([tmp_path / "bad.png"])
    with pytest.raises(ImageError, match=r"none\.png"):
        echo.predict(tmp_path / "none.png")


@pytest.mark.parametrize(
    "thing",
    [np.zeros((32, 32), np.uint8), np.zeros((32, 32, 3), np.float32), np.zeros((2, 9, 9, 3), np.uint8), 7, None],
)
def test_what_is_no_image_is_refused(echo, thing):
    with pytest.raises(ConfigError, match="is not an image"):
        echo.predict(thing)


def test_logits_of_pixels_are_those_of_preprocessed_images(photo):
    classifier = Classifier(tiny_model())
    batch = np.stack([photo, photo[::-1]])
    ready = np.stack([classifier.preprocess(image) for image in batch])
    found = classifier.logits(batch)
    assert (found.shape, found.dtype) == ((2, 3), np.float32)
    np.testing.assert_array_equal(found, classifier.logits(ready))
    np.testing.assert_array_equal(found, classifier.logits(ready.astype(np.float64)))


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((2, 3, 9, 9), np.uint8), ((2, 9, 9, 3), np.float32), ((9, 9, 3), np.uint8), ((2, 9, 9, 3), np.int64)],
)
def test_logits_of_other_shapes_are_refused(echo, shape, kind):
    with pytest.raises(ConfigError, match=r"images are .* of shape"):
        echo.logits(np.zeros(shape, kind))


def test_a_coatnet_brings_its_size_and_numbered_classes():
    classifier = Classifier(tiny_model())
    assert classifier.preprocess == Preprocess(image_size=(32, 32))
    assert classifier.class_names == ("0", "1", "2")
    assert isinstance(classifier.engine, TorchEngine)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="2 class names for 3 classes"):
        Classifier(tiny_model(), class_names=["a", "b"])
    with pytest.raises(ConfigError, match="more than once: a"):
        Classifier(tiny_model(), class_names=["a", "b", "a"])
    with pytest.raises(ConfigError, match="input_channels is 4"):
        Classifier(tiny_model(input_channels=4))
    with pytest.raises(ConfigError, match="The model has no network_config"):
        Classifier(Echo())


def test_another_size_is_fed_to_the_same_network():
    classifier = Classifier(tiny_model(), class_names=("a", "b", "c"))
    larger = classifier.at_size((48, 64))
    assert larger.engine is classifier.engine
    assert larger.preprocess == classifier.preprocess.replace(image_size=(48, 64))
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    expected = classifier.logits(larger.preprocess(image)[None])
    np.testing.assert_allclose(larger.logits(image[None]), expected, rtol=0, atol=1e-6)
    for size, told in (((16, 64), "16 is below 32"), ((32, 4000), "4000 is above 2048")):
        with pytest.raises(ConfigError, match=told):
            classifier.at_size(size)


def test_softmax_is_stable_and_refuses_what_is_not_finite():
    np.testing.assert_allclose(softmax(np.array([[3e38, 3e38, 0]], np.float32)), [[0.5, 0.5, 0]])
    np.testing.assert_allclose(softmax(np.array([[-1e9, -1e9 + 1.0]])).sum(), 1)
    with pytest.raises(QualityError, match="not finite"):
        softmax(np.array([[np.nan, 0]]))


def test_images_and_classifiers_are_imported_without_torch():
    parts = "coatnet.classifier, coatnet.data.images, coatnet.data.preprocess, coatnet.evaluation.metrics"
    code = f"import sys; sys.modules['torch'] = None; import {parts}, coatnet.pages.page, coatnet.pages.plots"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["tiny", "timm/resnet10t"])
def test_another_head_is_refused_at_once(name, tiny_config, tmp_path):
    model = create_model(tiny_config) if name == "tiny" else create_model(name, num_classes=3)
    parent, layer = (model.head, "classes") if name == "tiny" else (model, "fc")
    head = getattr(parent, layer)
    setattr(parent, layer, torch.nn.Linear(head.in_features, 7))
    with pytest.raises(ConfigError, match="gives 7 logits; the model's config describes 3"):
        Classifier(model)
    setattr(parent, layer, torch.nn.Sequential(torch.nn.Linear(head.in_features, 7), torch.nn.ReLU()))
    classifier = Classifier(model)
    with pytest.raises(ConfigError, match="7 logits for 3 class names"):
        classifier.predict(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ConfigError, match="not the one that its config describes"):
        classifier.save(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_tensors_that_share_memory_are_not_saved(tiny_config, tmp_path):
    model = create_model(tiny_config)
    model.head.twin = model.head.classes
    with pytest.raises(ConfigError, match="cannot be saved: Some tensors share memory"):
        Classifier(model).save(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_change_that_shows_in_no_weight_is_not_saved(tiny_config, tmp_path):
    model = create_model(tiny_config)
    model.head.hidden.register_forward_hook(lambda module, given, found: torch.tanh(3 * found))
    with pytest.raises(ConfigError, match="not the one that its config describes"):
        Classifier(model).save(tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "image",
    [None, "https://example.org/1.jpg", torch.zeros(3, 32, 32, requires_grad=True), iter(()), {"1.jpg"}, 3.5],
)
def test_what_is_no_image_is_one_plain_error(image, tiny_classifier):
    with pytest.raises(ConfigError) as caught:
        Classifier.load(tiny_classifier, "cpu").predict(image)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_bytes_of_every_kind_are_read(tiny_classifier):
    classifier, buffer = Classifier.load(tiny_classifier, "cpu"), io.BytesIO()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(buffer, "PNG")
    expected = classifier.predict(buffer.getvalue())
    assert classifier.predict(bytearray(buffer.getvalue())) == expected
    assert classifier.predict(memoryview(buffer.getvalue())) == expected
