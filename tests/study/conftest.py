"""A study of digits by tiny networks: some seconds of training."""

import json

import pytest

from coatnet.model.config import CoAtNetConfig

TINY = {
    layout: CoAtNetConfig.from_layout(
        layout,
        (2, 1, 1, 1, 1),
        (8, 8, 16, 16, 16),
        strides=(2, 2, 2, 1, 1),
        head_size=16,
        image_size=32,
        num_classes=10,
        gelu="erf",
        batch_norm_momentum=0.1,
        initialisation="fan",
    )
    for layout in ("CCCT", "CCTT")
}


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Two tiny networks, as `coatnet study --plan --json` prints them."""
    path = tmp_path_factory.mktemp("networks") / "tiny.json"
    layouts = [{"layout": name, "config": config.model_dump(mode="json")} for name, config in TINY.items()]
    path.write_text(json.dumps({"layouts": layouts}))
    return path


@pytest.fixture(scope="session")
def words(networks):
    """`coatnet study` with flags that may be changed: 2 trials and 2 results for each network."""
    flags = {
        "experiments": "generalization", "networks": str(networks), "layouts": "CCCT,CCTT", "fractions": "0.1",
        "steps": "3", "passes": "0.05",
        "seeds": "2", "rates": "1e-3,3e-3", "batch-size": "16", "evaluations": "3", "train-sample": "20",
        "workers": "0", "device": "cpu", "precision": "float32",
    }  # fmt: skip

    def make(**changes: str) -> list[str]:
        given = flags | {name.replace("_", "-"): value for name, value in changes.items()}
        return ["study", "digits", *(word for name, value in given.items() for word in (f"--{name}", value))]

    return make
