"""The catalogue of user errors: each has its exit code, one line that names what is wrong, and one hint."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch

from cli.zoo import CLASSIFIER_FILES
from coatnet.cli import VERBS, main
from coatnet.cli.errors import exit_code, tell

# What was typed -> exit code and words that the message or the hint must hold. Nothing of this needs torch.
WITHOUT_TORCH = {
    "traim": (2, "'traim'", "coatnet train"),
    "xyzzy": (2, "'xyzzy'", "models, scan, train, tune, resume, evaluate, pack, predict"),
    "--verbos": (2, "--verbos"),
    "models --jsn": (2, "--jsn", "--json"),
    "models now": (2, "now"),
    "scan": (2, "DATA"),
    "scan nowhere": (3, "nowhere"),
    "scan empty": (3, "empty", "No labelled images"),
    "scan columns.parquet": (3, "'image'", "'picture'"),
    "scan flowers --report file.txt": (2, "--report file.txt", "--overwrite"),
    "scan unreadable --strict --json": (3, "cannot be read: 18 unsupported_format", "--strict"),
    "train": (2, "DATA"),
    "train nowhere": (3, "nowhere"),
    "train flower": (3, "flower", "'flowers'"),
    "train flowers more": (2, "more"),
    "train flowers --batch-sze 3": (2, "--batch-sze", "--batch-size"),
    "train flowers --steps": (2, "--steps"),
    "train flowers --steps 0": (2, "--steps", "greater than 0"),
    "train flowers --steps many": (2, "--steps", "many"),
    "train flowers --steps 1.5": (2, "--steps", "1.5"),
    "train flowers --steps 1 --steps 2": (2, "--steps", "multiple"),
    "train flowers --epochs -3": (2, "--epochs", "-3"),
    "train flowers --epochs nan": (2, "--epochs", "nan"),
    "train flowers --epochs inf": (2, "--epochs", "inf"),
    "train flowers --steps 1 --epochs 2": (2, "--steps and --epochs"),
    "train flowers --time 3x": (2, "--time", "'3x'", "30m"),
    "train flowers --time 0s": (2, "--time"),
    "train flowers --batch-size 0": (2, "--batch-size", "greater than 0"),
    "train flowers --batch 7 --mixup 0.2": (2, "--batch-size 7", "odd", "--mixup"),
    "train flowers --learning-rate -1": (2, "--learning-rate", "'-1'"),
    "train flowers --learning-rate abc": (2, "--learning-rate", "'abc'"),
    "train flowers --learning-rate nan": (2, "--learning-rate", "nan"),
    "train flowers --learning-rate inf": (2, "--learning-rate", "inf"),
    "train flowers --weight-decay=-0.1": (2, "--weight-decay"),
    "train flowers --ema 1": (2, "--ema", "less than 1"),
    "train flowers --zoom 1": (2, "--zoom", "smallest,largest"),
    "train flowers --zoom 2,1": (2, "--zoom", "2,1"),
    "train flowers --zoom a,b": (2, "--zoom", "'a'"),
    "train flowers --crop-scale 0.5,2": (2, "--crop-scale", "0.5,2"),
    "train flowers --precision half": (2, "--precision", "bfloat16"),
    "train flowers --tensorboard=maybe": (2, "--tensorboard", "maybe"),
    "train flowers --seed -1": (2, "--seed"),
    "train flowers --val-fraction 1.5": (2, "--val-fraction", "less than 1"),
    "train flowers --val-fraction 0.6 --test-fraction 0.6": (2, "--val-fraction 0.6", "--test-fraction 0.6"),
    "train flowers --workers -1": (2, "--workers"),
    "train flowers --recipe big": (2, "--recipe", "small_data"),
    "train flowers --model coatnet_9": (2, "coatnet_9", "coatnet_7"),
    "train flowers --image-size 16": (2, "--image-size", "32"),
    "train flowers --image-size large": (2, "--image-size", "large"),
    "train flowers --image-size 64x": (2, "--image-size", "'64x'", "96x128"),
    "train flowers --image-size 64x48": (2, "--image-size 64x48", "square", "--init"),
    "train flowers --image-size 4000": (2, "--image-size", "2048"),
    "train flowers --init nothing": (4, "nothing does not exist", "none"),
    "train flowers --init tinny": (4, "tinny does not exist", "did you mean", "tiny"),
    "train flowers --init empty": (4, "empty is not a classifier folder"),
    "train flowers --init without_labels": (4, "labels.json"),
    "train flowers --init damaged_config": (4, "config.json"),
    "train flowers --init newer": (4, "newer", "99"),
    "train flowers --init file.txt": (2, "file.txt is a weights file", "--model"),
    "train flowers --init tiny --model coatnet_0": (2, "coatnet_0", "tiny", "--model"),
    "train flowers --init tiny --model coatnet_9": (2, "coatnet_9", "coatnet_7"),
    "train flowers --init tiny --recipe small_data": (2, "--recipe small_data", "--init"),
    "train flowers --recipe finetune": (2, "--recipe finetune", "--init"),
    "train flowers --init tiny --image-size 16": (2, "--image-size", "32"),
    "train flowers --freeze body": (2, "--freeze body", "init"),
    "train flowers --init tiny --frozen-share 0.5": (2, "--frozen-share 0.5 does nothing with freeze none"),
    "train flowers --init tiny --freeze head": (2, "--freeze", "body_first"),
    "train flowers --layer-decay 0": (2, "--layer-decay", "greater than 0"),
    "train flowers --patience 0": (2, "--patience", "greater than 0"),
    "train nowhere --init tiny": (3, "nowhere"),
    "train flowers --resume": (2, "--resume", "--out"),
    "train flowers --dry-run --overwrite --out new": (2, "--dry-run and --overwrite", "one of them"),
    "train flowers --batch auto --accumulate 2": (2, "--batch auto", "--accumulate"),
    "train flowers --batch automatic": (2, "--batch", "automatic"),
    "train flowers --out taken": (2, "taken", "not empty"),
    "train flowers --out taken --resume": (2, "taken", "not empty"),
    "train flowers --out taken --overwrite": (2, "taken", "not empty"),
    "train flowers --out new --overwrite --resume": (2, "--overwrite", "--resume"),
    "train flowers --out file.txt": (2, "file.txt", "is a file"),
    "train flowers --out file.txt/below/it": (2, "file.txt", "is a file"),
    "train flowers --out damaged_run --resume": (4, "damaged_run/config.json"),
    "train empty": (3, "empty", "No labelled images"),
    "train loose": (3, "loose", "1 images lie in it"),
    "train one_class": (3, "one_class", "Only one class", "'circle'"),
    "train empty_class": (3, "empty_class", "Only one class"),
    "train single": (3, "Too few images", "'circle'"),
    "train unknown_val": (3, "'daisy'", "val"),
    "train only_val": (3, "only_val", "train"),
    "train twice": (3, "twice", "'val'"),
    "train unreadable": (3, "could be read"),
    "train file.txt": (3, "file.txt", ".parquet"),
    "train broken.parquet": (3, "broken.parquet"),
    "train columns.parquet": (3, "'image'", "'picture'"),
    "train columns.parquet --image-column photo": (3, "'photo'", "'picture'"),
    "train labels.parquet": (3, "7"),
    "train numbers.parquet": (3, "numbers.parquet"),
    "train no_header.csv": (3, "Too few images", "'circle'"),
    "train missing.csv": (3, "missing.csv", "not/here.png"),
    "train cell.csv": (3, "cell.csv", "line 3"),
    "train empty.csv": (3, "empty.csv", "no rows"),
    "train split.csv": (3, "trian"),
    "train binary.csv": (3, "binary.csv", "UTF-8"),
    "train flowers --compile --recompute": (2, "--compile and --recompute exclude each other"),
    "train flowers --shard all": (2, "--shard", "'none'", "'parameters'"),
    "tune": (2, "DATA"),
    "tune nowhere": (3, "nowhere"),
    "tune flowers --trials 0": (2, "--trials", "greater than 0"),
    "tune flowers --time 3x": (2, "--time", "'3x'"),
    "tune flowers --epochs 0": (2, "--epochs", "greater than 0"),
    "tune flowers --out file.txt": (2, "file.txt", "is a file"),
    "tune flowers --out taken": (2, "taken", "not empty"),
    "resume": (2, "RUN"),
    "evaluate": (2, "CLASSIFIER"),
    "evaluate nothing": (4, "nothing does not exist"),
    "evaluate nothing flowers": (4, "nothing does not exist"),
    "evaluate tiny": (2, "DATA"),
    "evaluate tiny flowers --split tets": (2, "--split", "tets", "test"),
    "evaluate tiny flowers --bad ignore": (2, "--bad", "wrong", "exclude"),
    "evaluate tiny flowers --batch-size 0": (2, "--batch-size", "0"),
    "evaluate tiny flowers --precision int8": (2, "--precision", "int8"),
    "evaluate damaged_split": (4, "damaged_split/config.json"),
    "evaluate tiny flowers --image-size big": (2, "--image-size", "'big'"),
    "predict tiny images/whole.png --image-size 64,48": (2, "--image-size", "'64,48'", "96x128"),
    "predict": (2, "CLASSIFIER"),
    "predict tiny": (2, "IMAGES"),
    "predict tiny images/whole.png --top 0": (2, "--top", "0"),
    "predict tiny images/whole.png --top many": (2, "--top", "many"),
    "predict tiny empty": (3, "empty", "no images"),
    "predict flowers images/whole.png": (4, "flowers", "model.safetensors"),
    "predict file.txt images/whole.png": (4, "file.txt", "not a folder"),
    "predict nothing images/whole.png": (4, "nothing does not exist"),
    "predict newer images/whole.png": (4, "newer", "99"),
    "predict unknown_key images/whole.png": (4, "preprocess.json", "colour"),
    "predict two_labels images/whole.png": (4, "labels.json", "2 class names for 3 classes"),
    "predict same_labels images/whole.png": (4, "labels.json", "circle"),
    **{f"predict without_{name.partition('.')[0]} images/whole.png": (4, name) for name in CLASSIFIER_FILES},
    **{f"predict damaged_{name.partition('.')[0]} images/whole.png": (4, name) for name in CLASSIFIER_FILES},
}

WITH_TORCH = {
    "train flowers --device tpu --out new": (2, "'tpu'", "auto"),
    "train flowers --init file.txt --model coatnet_mini_32": (4, "file.txt is no weights file", ".safetensors"),
    "train flowers --init damaged_model --steps 1": (4, "damaged_model/model.safetensors"),
    "evaluate tiny flowers --image-size 16": (2, "16", "32"),
    "predict tiny images/whole.png --image-size 32x4000": (2, "4000", "2048"),
    "train flowers --batch 1048576 --device cpu --out new": (7, "1048576 images", "would fit", "--batch auto"),
    "resume nothing": (4, "nothing"),
    "train flowers --recompute --model timm/resnet18 --steps 1": (2, "recompute", "timm/resnet18"),
    "doctor nothing": (4, "nothing does not exist", "a file of weights"),
    "doctor damaged_run": (4, "damaged_run is a run that has not ended", "coatnet resume damaged_run"),
    "train flowers --sync-batch-norm --device cpu --steps 1": (2, "sync_batch_norm", "1 process on cpu"),
    "train flowers --shard parameters --device cpu --steps 1": (2, "shard parameters", "torchrun"),
    "resume empty": (4, "empty"),
    "resume damaged_run": (4, "damaged_run/config.json"),
    "resume future_run": (4, "future_run/config.json", "format"),
    "evaluate tiny nowhere": (3, "nowhere"),
    "evaluate tiny empty": (3, "empty"),
    "evaluate tiny strange": (3, "'daisy', 'rose'"),
    "evaluate tiny flowers --split test": (3, "test"),
    "evaluate tiny flowers --device tpu": (2, "tpu"),
    "evaluate tiny flowers --device cuda:99": (5, "cuda:99"),
    "evaluate tiny unreadable": (3, "None of the 18 images"),
    "predict other_mean images/whole.png": (4, "other_mean"),
    "predict tiny images/nowhere.png": (3, "images/nowhere.png"),
    "predict tiny images/zero.png": (3, "images/zero.png"),
    "predict tiny images/bomb.png": (3, "images/bomb.png"),
    "predict tiny file.txt": (3, "file.txt"),
    "predict tiny images": (3, "6 images could not be read"),
    "predict tiny images --json": (3, "6 images could not be read"),
}


def check(command, code, words, told):
    """Exit code `code`, two lines in `told`, and all `words` in them."""
    lines = told.splitlines()
    assert len(lines) == 2, told
    assert lines[0].startswith("coatnet: "), told
    assert lines[1].startswith("  hint: "), told
    for word in words:
        assert word in told, (command, word, told)


@pytest.mark.parametrize("command", WITHOUT_TORCH | WITH_TORCH)
def test_catalogue(command, in_zoo, capsys):
    code, *words = (WITHOUT_TORCH | WITH_TORCH)[command]
    assert main(command.split()) == code
    check(command, code, words, capsys.readouterr().err)


QUICK = """
import contextlib, io, json, sys
class NoTorch:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torch", "torchvision", "timm"):
            raise AssertionError(name + " was imported")
sys.meta_path.insert(0, NoTorch())
from coatnet.cli import VERBS, main
answers = {}
for command in json.load(sys.stdin):
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        code = main(command.split())
    answers[command] = code, told.getvalue()
print(json.dumps(answers))
"""
HELP = ["", "--help", "-h", "--version", "models", "models --json", "models --published"]
HELP += [f"{verb} --help" for verb in VERBS]


def test_torch_is_not_needed(in_zoo):
    typed = json.dumps([*HELP, *WITHOUT_TORCH])
    ran = subprocess.run([sys.executable, "-c", QUICK], input=typed, capture_output=True, text=True, check=True)
    answers = json.loads(ran.stdout)
    assert {command: code for command, (code, _) in answers.items()} == {
        **dict.fromkeys(HELP, 0),
        **{command: code for command, (code, *_) in WITHOUT_TORCH.items()},
    }
    for command, (code, *words) in WITHOUT_TORCH.items():
        check(command, code, words, answers[command][1])


@pytest.mark.parametrize("command", ["train nowhere", "predict tiny images/zero.png", "train flowers --time 3x"])
def test_process(command, in_zoo):
    code, *words = (WITHOUT_TORCH | WITH_TORCH)[command]
    ran = subprocess.run([sys.executable, "-m", "coatnet", *command.split()], capture_output=True, text=True)
    assert ran.returncode == code
    check(command, code, words, ran.stderr)


def test_each_refused_image_says_why(in_zoo, capsys):
    assert main(["predict", "tiny", "images", "--json"]) == 3
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {answer["image"]: answer.get("error", {}).get("code") for answer in answers} == {
        "images/bomb.png": "too_many_pixels",
        "images/header.png": "corrupt",
        "images/strip.png": "extreme_aspect",
        "images/text.jpg": "unsupported_format",
        "images/truncated.png": "truncated",
        "images/whole.png": None,
        "images/zero.png": "empty",
    }
    assert "object at" not in str(answers)


@pytest.mark.parametrize("words", [["train", ""], ["predict", "tiny", ""], ["scan", "flowers", "--out", ""]])
def test_an_empty_argument_is_not_the_current_folder(words, in_zoo, capsys):
    assert main(words) == 2
    told = capsys.readouterr()
    check(" ".join(words), 2, ["an argument is empty", "not set"], told.err)
    assert not told.out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(in_zoo, capsys):
    assert main(["evaluate", "tiny", "flowers", "--device", "cuda"]) == 5
    check("cuda", 5, ["'cuda'", "cpu"], capsys.readouterr().err)


def test_missing_extra(in_zoo, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    typed = f"train flowers --steps 2 --batch-size 4 --workers 0 --device cpu --tensorboard --out {tmp_path / 'run'}"
    assert main(typed.split()) == 5
    check(typed, 5, ["tensorboard", "pip install '.[tensorboard]'"], capsys.readouterr().err)


def test_missing_optuna(in_zoo, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tune", "flowers", "--out", str(tmp_path / "search")]) == 5
    check("tune", 5, ["optuna", "pip install '.[tune]'"], capsys.readouterr().err)
    assert not (tmp_path / "search").exists()


def test_arguments_with_spaces_and_line_feeds_stay_in_one_line(in_zoo, capsys):
    assert main(["train", "two\nlines and spaces"]) == 3
    check("", 3, ["lines and spaces"], capsys.readouterr().err)


def test_a_bug_of_many_lines_is_told_in_one(capsys):
    def broken():
        raise ZeroDivisionError("divided\nby zero.")

    assert exit_code(broken, ["models"]) == 1
    check("", 1, ["this is a bug: ZeroDivisionError: divided by zero\n", "--debug"], capsys.readouterr().err)


def test_traceback_only_when_asked(in_zoo, capsys, monkeypatch):
    for typed in (["--debug", "train", "nowhere"], ["train", "nowhere", "--debug"]):
        assert main(typed) == 3
        assert "Traceback" in capsys.readouterr().err
    assert main(["train", "--", "--debug"]) == 3  # after -- it is a path
    assert "--debug does not exist" in capsys.readouterr().err
    monkeypatch.setenv("COATNET_DEBUG", "1")
    assert main(["train", "nowhere"]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/a/model"), 7, ["no space left", "runs/a/model"]),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 7, ["no space left"]),
        (MemoryError(), 7, ["out of memory", "--batch-size"]),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 7, ["out of memory"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 7, ["memory"]),
        (PermissionError(errno.EACCES, "Permission denied", "secret"), 3, ["secret: Permission denied"]),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), 5, ["timm is not installed"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (ZeroDivisionError("division by zero"), 1, ["this is a bug", "ZeroDivisionError: division by zero", "--debug"]),
        (OSError("a socket broke"), 1, ["this is a bug"]),
    ],
)
def test_what_is_told(error, code, words):
    message, hint, exit_code = tell(error, ["train"])
    assert exit_code == code
    for word in words:
        assert word in f"{message} {hint}"


def test_reader_that_has_seen_enough():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "coatnet", "models"]
    ran = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (0, "")
