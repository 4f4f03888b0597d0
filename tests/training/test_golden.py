"""Loss curves of 20 steps, as first written: a change that moves them was meant, or is a defect."""

import pytest
import torch

from coatnet.data.sources import open_data
from coatnet.model.config import CoAtNetConfig
from coatnet.training.start import stream_of
from coatnet.training.trainer import Trainer
from training.test_loop import config

# In float32; machines round differently, and 20 steps amplify it. If a change of the network, of the data or of the
# augmentation moves them on purpose, put the new numbers here in a commit of their own and say by how much they moved.
CURVES: dict[str, list[float]] = {
    "CCCC": [
        2.53492,
        2.39681,
        2.47375,
        2.65044,
        2.64015,
        2.15814,
        2.54755,
        2.23723,
        2.53906,
        2.37522,
        2.33574,
        2.39779,
        2.38391,
        2.23383,
        2.42738,
        2.21967,
        2.35977,
        2.34785,
        2.32892,
        2.48412,
    ],
    "CCTT": [
        2.40863,
        2.39408,
        2.37976,
        2.47028,
        2.41896,
        2.29583,
        2.53711,
        2.4864,
        2.35684,
        2.30713,
        2.45807,
        2.36517,
        2.34397,
        2.5469,
        2.26688,
        2.4161,
        2.2728,
        2.41247,
        2.32616,
        2.42669,
    ],
    "CTTT": [
        2.595,
        2.48499,
        2.41669,
        2.5381,
        2.46322,
        2.47068,
        2.37356,
        2.38097,
        2.64443,
        2.31327,
        2.44743,
        2.11998,
        2.40214,
        2.6315,
        2.382,
        2.32161,
        2.42085,
        2.34878,
        2.41229,
        2.29816,
    ],
}


@pytest.mark.parametrize("layout", CURVES)
def test_the_loss_curve_is_the_one_of_before(layout: str) -> None:
    member = CoAtNetConfig.from_layout(
        layout,
        (2, 1, 1, 1, 1),
        (8, 8, 16, 32, 32),
        image_size=32,
        num_classes=10,
        head_size=16,
        stochastic_depth=0.2,
        initialisation="fan",
    )
    golden = config(precision="float32", steps=20).replace(model=member)
    trainer = Trainer(golden, torch.device("cpu"))
    found = [float(trainer.step([batch])) for batch in stream_of(golden, open_data(golden.data)).batches(0, 20)]
    assert found == pytest.approx(CURVES[layout], rel=1e-3), [round(loss, 5) for loss in found]
