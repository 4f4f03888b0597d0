"""How far logits lie apart."""

import numpy as np

from coatnet.runtime.agreement import compare


def test_what_is_compared():
    reference = np.array([[1.0, 2.0, 30.0], [5.0, 4.0, 3.0]], np.float32)
    assert compare(reference, reference).is_exact
    shifted = compare(reference, reference + 1)
    assert shifted.largest_difference == 1
    assert shifted.relative_error < 1e-6
    assert not shifted.is_exact
    assert shifted.scale == 30
    turned = compare(reference, reference[:, ::-1])
    assert turned.same_top1 == 0
    half = compare(reference, reference * np.float32(1.5))
    assert abs(half.relative_error - 0.5) < 1e-6
    assert half.same_top1 == 1
    assert compare(reference, reference + np.float32(2e-3)).is_exact  # 1e-4 of the largest logit
    assert not compare(reference, reference + np.float32(4e-3)).is_exact
