"""`coatnet benchmark`: its table, its JSON, its picture and its errors."""

import json

import pytest

from coatnet.cli import main

FAST = ("--batch-sizes", "1,2", "--rounds", "2", "--device", "cpu")


def run(capsys, *words, code=0):
    capsys.readouterr()
    assert main([str(word) for word in words]) == code, capsys.readouterr().err
    return capsys.readouterr()


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def test_table_and_chart(tiny_classifier, tmp_path, capsys):
    chart = tmp_path / "speed.png"
    out = run(capsys, "benchmark", tiny_classifier, *FAST, "--chart", chart).out
    for word in ("images/s", "p95", "torch-float32", "torch-bfloat16", "S4", "head", "GFLOP/s", "copy"):
        assert word in out
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_a_layout_is_a_network_too(capsys):
    """The words are those of `coatnet properties`."""
    words = ("--batch-sizes", "1", "--rounds", "1", "--device", "cpu", "--runtimes", "torch-float32", "--json")
    found = json.loads(run(capsys, "benchmark", "CCCC", "--image-size", "32", *words).out)
    assert (found["model"], found["image_size"]) == ("CCCC", [32, 32])


def test_json(tiny_classifier, capsys):
    words = ("--runtimes", "torch-bfloat16", "--image-size", "32x64", "--json")
    found = json.loads(run(capsys, "benchmark", tiny_classifier, *FAST, *words).out)
    assert [(one["runtime"], one["batch_size"]) for one in found["speeds"]] == [
        ("torch-bfloat16", 1),
        ("torch-bfloat16", 2),
    ]
    assert found["image_size"] == [32, 64]
    assert found["ceilings"].keys() == {"float32_flops", "bfloat16_flops", "copy_bytes"}
    assert found["peak_memory_bytes"].keys() == {"torch-bfloat16"}


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("coatnet_99",), 2, "there is no model 'coatnet_99'"),
        (("nowhere/to/be/found",), 4, "nowhere/to/be/found"),
        (("coatnet_mini_32", "--runtimes", "tensorrt"), 2, "there is no runtime 'tensorrt'"),
        (("coatnet_mini_32", "--batch-sizes", "0"), 2, "--batch-sizes: '0'"),
        (("coatnet_mini_32", "--batch-sizes", "1,x"), 2, "--batch-sizes"),
        (("coatnet_mini_32", "--rounds", "0"), 2, "--rounds"),
        (("coatnet_mini_32", "--chart", "speed.jpg"), 2, "--chart speed.jpg is no picture"),
        (("coatnet_mini_32", "--image-size", "16"), 2, "16"),
        (("coatnet_mini_32", "--device", "cuda:77"), 5, "cuda:77"),
        (("coatnet_mini_32", "--batch-sizes", "1000000000"), 7, "memory"),
    ],
)
def test_errors(words, code, told, capsys):
    captured = run(capsys, "benchmark", *words, code=code)
    assert told in captured.err
    assert captured.err.count("\n") == 2
    assert captured.out == ""
