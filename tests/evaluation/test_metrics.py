"""Every number is checked against an independent reference: scikit-learn, a slow obvious loop, or a published value."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from coatnet.errors import DataError, QualityError
from coatnet.evaluation.metrics import Answers, rate, wilson_interval

NAMES = tuple("abcdefg")


def drawn(num_images: int = 83, num_classes: int = 7, seed: int = 0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, num_images)
    logits = generator.normal(size=(num_images, num_classes)).astype(np.float32) * 2
    logits[np.arange(num_images), labels] += 1.5
    return logits, labels


def softmax_loop(logits):
    return np.array(
        [[math.exp(x - max(row)) / sum(math.exp(y - max(row)) for y in row) for x in row] for row in logits]
    )


def test_accuracies_loss_and_confusion_equal_scikit_learn():
    logits, labels = drawn()
    found = rate(Answers.of_logits(logits, labels), NAMES)
    probabilities = softmax_loop(logits.astype(np.float64))
    every_class = list(range(7))
    assert found.top1 == pytest.approx(reference.accuracy_score(labels, logits.argmax(1)))
    assert found.top5 == pytest.approx(reference.top_k_accuracy_score(labels, logits, k=5))
    assert found.loss == pytest.approx(reference.log_loss(labels, probabilities, labels=every_class))
    np.testing.assert_array_equal(
        found.confusion, reference.confusion_matrix(labels, logits.argmax(1), labels=every_class)
    )
    assert found.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(labels, logits.argmax(1)))
    np.testing.assert_allclose(found.answers.probability, probabilities.max(axis=1))


def test_class_scores_equal_scikit_learn_with_a_class_never_seen_and_one_never_predicted():
    logits, labels = drawn()
    labels[labels == 2] = 3
    logits[:, 4] = -50
    scores = rate(Answers.of_logits(logits, labels), NAMES).per_class
    precision, recall, f1, support = reference.precision_recall_fscore_support(
        labels, logits.argmax(1), labels=list(range(7)), zero_division=0
    )
    np.testing.assert_allclose([s.precision for s in scores], precision)
    np.testing.assert_allclose([s.recall for s in scores], recall)
    np.testing.assert_allclose([s.f1 for s in scores], f1)
    assert [s.support for s in scores] == support.tolist()
    assert scores[2].support == 0
    assert scores[4].precision == 0


def test_balanced_accuracy_leaves_out_classes_without_images():
    found = rate(Answers.of_logits(np.eye(3)[[0, 1, 0]], np.array([0, 1, 1])), "abc")
    assert found.balanced_accuracy == pytest.approx((1 + 0.5) / 2)
    assert found.macro_f1 == pytest.approx(2 / 3)


def test_calibration_error_equals_a_slow_loop():
    logits, labels = drawn(400)
    found = rate(Answers.of_logits(logits, labels), NAMES)
    probabilities = softmax_loop(logits.astype(np.float64))
    expected = 0.0
    for m in range(15):
        inside = [i for i in range(400) if m / 15 < probabilities[i].max() <= (m + 1) / 15]
        assert found.reliability[m].count == len(inside)
        if inside:
            accuracy = sum(int(probabilities[i].argmax()) == labels[i] for i in inside) / len(inside)
            confidence = sum(probabilities[i].max() for i in inside) / len(inside)
            expected += len(inside) / 400 * abs(accuracy - confidence)
            assert found.reliability[m].accuracy == pytest.approx(accuracy)
            assert found.reliability[m].confidence == pytest.approx(confidence)
        else:
            assert found.reliability[m].accuracy is None
    assert found.calibration_error == pytest.approx(expected)
    assert expected > 0.01


def test_wilson_interval_equals_published_values():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
    for successes, trials, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(trials=st.integers(1, 5000), share=st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_wilson_interval_holds_the_rate_and_stays_inside(trials, share):
    successes = round(trials * share)
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert low < high


def test_equal_logits_are_not_all_right():
    found = rate(Answers.of_logits(np.zeros((20, 10)), np.repeat(np.arange(10), 2)), "abcdefghij")
    assert (found.top1, found.top5) == (0.1, 0.5)


def test_top5_of_few_classes_is_certain():
    assert rate(Answers.of_logits(*drawn(num_classes=3)), "abc").top5 == 1


def test_huge_logits_neither_overflow_nor_lose_the_loss():
    answers = Answers.of_logits(np.array([[3e38, -3e38], [3e38, 0]], dtype=np.float32), np.array([0, 0]))
    assert answers.loss.tolist() == [0, 0]
    assert answers.probability.tolist() == [1, 1]


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(QualityError, match="logits of 1 of 2 images are not finite"):
        Answers.of_logits(np.array([[0, np.nan], [0, 1]]), np.array([0, 0]))


def test_unreadable_images_count_as_wrong_in_accuracy_and_recall():
    logits, labels = np.eye(2)[[0, 0, 1]], np.array([0, 0, 1])
    lost = [("x.png", 1), ("y.png", 1)]
    found = rate(Answers.of_logits(logits, labels), "ab", unreadable=lost)
    assert (found.num_images, found.top1, found.top5) == (5, 3 / 5, 3 / 5)
    assert [(s.recall, s.support) for s in found.per_class] == [(1, 2), (1 / 3, 3)]
    assert found.unreadable == ("x.png", "y.png")
    assert found.top1_interval == wilson_interval(3, 5)
    assert found.confusion.sum() == 3


def test_unreadable_images_can_be_excluded_but_are_still_named():
    found = rate(Answers.of_logits(np.eye(2), np.array([0, 1])), "ab", unreadable=[("x.png", 1)], bad="exclude")
    assert (found.num_images, found.top1, found.unreadable) == (2, 1, ("x.png",))
    assert found.per_class[1].support == 1


def test_nothing_readable_is_an_error():
    empty = Answers.of_logits(np.zeros((0, 2)), np.zeros(0, np.int64))
    with pytest.raises(DataError, match="None of the 3 images could be read"):
        rate(empty, "ab", unreadable=[("x", 0)] * 3)


def test_joined_batches_equal_one_batch():
    logits, labels = drawn()
    whole = rate(Answers.of_logits(logits, labels), NAMES)
    parts = [Answers.of_logits(logits[i : i + 13], labels[i : i + 13]) for i in range(0, 83, 13)]
    assert rate(Answers.joined(parts), NAMES).as_dict() == whole.as_dict()


def test_as_dict_survives_json_and_has_the_documented_keys():
    logits, labels = drawn()
    found = rate(Answers.of_logits(logits, labels), NAMES, split="test", unreadable=[("x.png", 0)])
    record = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert set(record) == set(found.summary()) | {"bad", "unreadable_images", "classes", "reliability", "confusion"}
    assert (record["split"], record["images"], record["unreadable"]) == ("test", 84, 1)
    again = np.zeros((7, 7), np.int64)
    for true, predicted, count in record["confusion"]:
        again[true, predicted] = count
    np.testing.assert_array_equal(again, found.confusion)
    assert "answers" not in record


def test_metrics_import_neither_torch_nor_matplotlib():
    code = "import sys, coatnet.evaluation.metrics; assert not {'torch', 'matplotlib', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
