import pytest
import torch

from coatnet.model.coatnet import CoAtNet
from coatnet.model.config import CoAtNetConfig
from coatnet.model.heads import carry_classes, classes_layers, with_classes
from coatnet.model.weights import fill

CONFIG = CoAtNetConfig.from_layout("CCTT", (2, 1, 1, 1, 1), (8, 16, 32, 32, 32), image_size=32, num_classes=4)
OLD = ("ant", "bee", "cat", "dog")


@pytest.mark.parametrize(
    ("new", "kind", "rows"),
    [
        (OLD, "kept", (0, 1, 2, 3)),
        (("dog", "cat", "bee", "ant"), "permuted", (3, 2, 1, 0)),
        (("bee", "dog"), "cut", (1, 3)),
        (("dog", "bee"), "cut", (3, 1)),
        (("ant", "bee", "cat", "eel"), "new", ()),
        (("ant", "bee", "cat", "dog", "eel"), "new", ()),
        (("Ant", "Bee", "Cat", "Dog"), "new", ()),
    ],
)
def test_classes_are_carried_by_name(new: tuple[str, ...], kind: str, rows: tuple[int, ...]) -> None:
    carried = carry_classes(OLD, new)
    assert (carried.kind, carried.rows) == (kind, rows)
    assert carried.words.startswith(kind)


def test_names_that_nobody_knows_give_a_new_layer() -> None:
    assert carry_classes(None, OLD).kind == "new"


def carried_network(new: tuple[str, ...]) -> tuple[CoAtNet, CoAtNet]:
    torch.manual_seed(0)
    old, network = CoAtNet(CONFIG).eval(), CoAtNet(CONFIG.replace(num_classes=len(new))).eval()
    state = with_classes(old.state_dict(), network.state_dict(), carry_classes(OLD, new), classes_layers(CONFIG))
    fill(network, state, "test")
    return old, network


@pytest.mark.parametrize("new", [OLD, ("dog", "cat", "bee", "ant"), ("dog", "bee")])
def test_each_class_keeps_its_logit(new: tuple[str, ...]) -> None:
    old, network = carried_network(new)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = old(images)[:, [OLD.index(name) for name in new]]
        torch.testing.assert_close(network(images), expected, rtol=0, atol=1e-6)


def test_a_new_layer_leaves_the_rest() -> None:
    old, network = carried_network(("eel", "fox"))
    assert network.head.classes.weight.shape == (2, 32)
    assert not torch.equal(network.head.classes.weight, old.head.classes.weight[:2])
    assert torch.equal(network.head.hidden[0].weight, old.head.hidden[0].weight)
