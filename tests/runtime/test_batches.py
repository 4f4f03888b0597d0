"""Any number of images through an engine of two batch sizes, in their order."""

import numpy as np
import pytest

from coatnet.runtime.batches import in_batches


@pytest.mark.parametrize("count", [0, 1, 4, 5, 7, 8, 9, 21])
def test_every_image_is_answered_in_order(count):
    asked = []

    def run(images):
        asked.append(len(images))
        return np.stack([images.sum((1, 2, 3)), images[:, 0, 0, 0]], 1)

    images = np.random.default_rng(0).normal(size=(count, 3, 2, 2)).astype(np.float32)
    found = in_batches(images, run)
    assert found.shape == (count, 2)
    np.testing.assert_allclose(found[:, 0], images.sum((1, 2, 3)), rtol=1e-5)
    assert set(asked) <= {1, 8}
    assert asked.count(1) <= 4
