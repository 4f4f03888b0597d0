"""A network is an ordinary torch module: compilers, exporters, tracers, transforms and any trainer take it."""

import copy
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.utils import freeze
from torch import Tensor, nn
from torch.export import Dim, export
from torch.nn.utils import parameters_to_vector, prune
from torchvision.models.feature_extraction import create_feature_extractor

from coatnet.model.coatnet import CoAtNet
from coatnet.model.config import CoAtNetConfig
from model.test_coatnet import MODELS

# torch's own, about torch.jit, which torch.func uses too
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")

CONFIG = CoAtNetConfig.from_layout(
    "CCTT", (2, 1, 1, 1, 1), (8, 8, 16, 32, 32), image_size=64, num_classes=3, head_size=16
)


@pytest.fixture
def model() -> CoAtNet:
    return CoAtNet(CONFIG).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64)


WIDE = (3, 3, 96, 80)


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dynamic", [None, pytest.param(True, marks=pytest.mark.slow)])
def test_a_fresh_network_compiles_whole(model: CoAtNet, images: Tensor, dynamic: bool | None) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(model.train()), backend="eager", fullgraph=True, dynamic=dynamic)
    for batch in (images, torch.randn(WIDE)) if dynamic else (images,):
        near(compiled(batch), model(batch))
    compiled(images).sum().backward()


@pytest.mark.slow
def test_exports_for_any_batch_height_and_width(model: CoAtNet, images: Tensor) -> None:
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    exported = export(model, (images,), dynamic_shapes=(sizes,)).module()
    for batch in (images, torch.randn(WIDE), torch.randn(1, 3, 33, 47)):
        near(exported(batch), model(batch))


def test_is_traced_with_gradients(model: CoAtNet, images: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(model, images)
    near(traced(images[:1]), model(images[:1]))
    traced(images).sum().backward()


@pytest.mark.parametrize("training", [False, True])
def test_is_traced_by_fx(model: CoAtNet, images: Tensor, training: bool) -> None:
    model.train(training)
    graph = torch.fx.symbolic_trace(copy.deepcopy(model))
    for batch in (images, torch.randn(WIDE)):
        near(graph(batch), model(batch))


def test_features_by_name(model: CoAtNet, images: Tensor) -> None:
    features = create_feature_extractor(model, ["stages.1", "head.norm"])(images)
    assert {name: tuple(map_.shape) for name, map_ in features.items()} == {
        "stages.1": (2, 8, 8, 16),
        "head.norm": (2, 32),
    }


def test_transforms_of_functions(model: CoAtNet, images: Tensor) -> None:
    near(torch.func.vmap(lambda image: model(image[None])[0])(images), model(images))
    jacobian = torch.func.jacrev(model)(images)
    direction = torch.randn_like(images)
    _, slope = torch.func.jvp(model, (images,), (direction,))
    near((jacobian * direction[None, None]).sum((2, 3, 4, 5)), slope)

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(model, weights, (image[None],)).sum()

    weights = dict(model.named_parameters())
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, images)
    model(images).sum().backward()
    for name, parameter in weights.items():
        near(each[name].sum(0), parameter.grad)


def test_slopes_in_a_direction_without_a_table(images: Tensor) -> None:
    model = CoAtNet(CONFIG.replace(relative_attention=False)).double().eval()
    x, step = images.double(), 1e-6
    _, slope = torch.func.jvp(model, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(slope, (model(x + step) - model(x - step)) / (2 * step), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_contiguous(name: str) -> None:
    assert not [key for key, tensor in MODELS[name]().state_dict().items() if not tensor.is_contiguous()]


def test_flat_weights_safetensors_pruning_and_lbfgs(model: CoAtNet, images: Tensor, tmp_path) -> None:
    assert len(parameters_to_vector(model.parameters())) == sum(one.numel() for one in model.parameters())
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert torch.equal(load_file(tmp_path / "model.safetensors")["stem.mix.weight"], model.stem.mix.weight)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def loss() -> float:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(model(images), torch.tensor([0, 1]))
        value.backward()
        return value.item()

    before = loss()
    optimizer.step(loss)
    assert loss() < before
    prune.random_unstructured(model.stem.mix, "weight", 0.5)
    assert model(images).isfinite().all()


def with_statistics(model: CoAtNet, images: Tensor) -> CoAtNet:
    with torch.no_grad():
        model.train()(images)
    return model.eval()


def test_batch_norms_may_be_synchronised(model: CoAtNet, images: Tensor) -> None:
    expected = with_statistics(model, images)(images)
    other = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    near(other(images), expected)
    near(other.train()(images), model.train()(images))
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(other.get_buffer(name), buffer)


def test_batch_norms_may_be_frozen(model: CoAtNet, images: Tensor) -> None:
    expected = with_statistics(model, images)(images)
    freeze(model)
    near(model.train()(images), expected)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
