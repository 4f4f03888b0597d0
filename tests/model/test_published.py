"""Published weights: from a hub's cache made on the spot, a folder or a file; whole, or refused."""

import json
import pickle
import socket
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save

from coatnet.errors import ConfigError, MissingPartError, ModelFileError
from coatnet.model.catalogue import CATALOGUE, DEFAULT, INTERPOLATION
from coatnet.model.family import create_model
from coatnet.model.guests import guest, guest_size
from coatnet.model.published import Published, find_published, is_published_name
from model.hub_cache import REVISION, fresh_tensors, put, put_in_cache, record_of

VIT, RESNET, COATNET = "timm/test_vit.r160_in1k", "timm/test_resnet.r160_in1k", "timm/coatnet_nano_rw_224.sw_in1k"
TINY = "timm/test_coatnet.made_up"
"""A small network with the filter of all CoAtNets. timm has no weights of it, but the record is all that is asked."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no way to the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def published(cache, name, record=True, **options):
    """Put random weights under this name into the cache."""
    tensors = fresh_tensors(name.removeprefix("timm/").partition(".")[0], **options)
    put_in_cache(cache, name, tensors, record_of(name.removeprefix("timm/")) if record is True else record)
    return tensors


def same(model, tensors):
    state = model.state_dict()
    return state.keys() == tensors.keys() and all(torch.equal(state[name], tensors[name]) for name in state)


# --- what is loaded --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [VIT, RESNET, COATNET])
def test_weights_in_the_cache_are_loaded_bit_for_bit(cache, name):
    tensors = published(cache, name)
    model = create_model(name, pretrained=True)
    assert same(model, tensors)
    assert model.network_config == guest(name)
    assert not any(isinstance(value, dict) for value in model.pretrained_cfg.values())  # no second copy of the weights


def test_without_a_tag_the_first_weights_of_timm_are_taken(cache):
    tensors = published(cache, VIT)
    assert same(create_model("timm/test_vit", pretrained=True), tensors)


def test_a_folder_and_a_file_serve_as_well_as_the_hub(tmp_path):
    tensors = fresh_tensors("test_vit")
    folder = put(tmp_path / "copied", tensors, record_of("test_vit.r160_in1k"))
    assert same(create_model(VIT, pretrained=folder), tensors)
    assert same(create_model(VIT, pretrained=str(folder / "model.safetensors")), tensors)
    (folder / "config.json").unlink()  # timm's registry knows this tag
    assert same(create_model(VIT, pretrained=folder), tensors)


def test_another_number_of_classes_gets_a_fresh_head(cache):
    tensors = published(cache, VIT)
    model = create_model(VIT, pretrained=True, num_classes=7, stochastic_depth=0.1)
    state = model.state_dict()
    assert state["head.weight"].shape[0] == 7
    assert all(torch.equal(state[name], tensors[name]) for name in state if not name.startswith("head."))
    assert (model.network_config.num_classes, model.network_config.stochastic_depth) == (7, 0.1)
    assert model.eval()(torch.zeros(1, 3, 160, 160)).shape == (1, 7)


@pytest.mark.filterwarnings("ignore")  # timm's own
def test_another_image_size_resizes_the_tables_as_timm_does(cache, tmp_path):
    tensors = published(cache, TINY, record_of("test_coatnet"))
    model = create_model(TINY, pretrained=True, image_size=192)
    overlay = {"file": str(put(tmp_path / "peer", tensors, None) / "model.safetensors")}
    peer = timm.create_model("test_coatnet", pretrained=True, pretrained_cfg_overlay=overlay, img_size=192)
    assert same(model, peer.state_dict())
    assert model.network_config.image_size == 192
    assert model.eval()(torch.zeros(1, 3, 192, 192)).shape == (1, 1000)
    with pytest.raises(ConfigError, match="does not work at 168 px"):
        create_model(TINY, pretrained=True, image_size=168)


def test_weights_that_live_under_another_name_are_found(cache):
    """The record beside them may be another library's; timm's registry knows better."""
    tensors = fresh_tensors("cspnext_tiny")
    put_in_cache(cache, "munehiro-k/cspnext_tiny.rsb_a1_in1k", tensors, {"model_type": "somebody's"})
    assert same(create_model("timm/cspnext_tiny.rsb_a1_in1k", pretrained=True), tensors)
    with pytest.raises(ConfigError, match="did you mean timm/cspnext_tiny"):
        create_model("timm/cspnext_tniy.rsb_a1_in1k", pretrained=True)


def test_weights_without_classes_need_some(tmp_path):
    record = {**record_of("test_vit.r160_in1k"), "num_classes": 0}
    folder = put(tmp_path / "headless", fresh_tensors("test_vit", num_classes=0), record)
    with pytest.raises(ConfigError, match="these weights of test_vit have no classes"):
        create_model("timm/test_vit", pretrained=folder)
    model = create_model("timm/test_vit", pretrained=folder, num_classes=4)
    assert model.eval()(torch.zeros(1, 3, 160, 160)).shape == (1, 4)


# --- what is missing -------------------------------------------------------------------------------------------------


def test_missing_weights_say_where_to_put_them(cache):
    with pytest.raises(MissingPartError) as caught:
        create_model(VIT, pretrained=True)
    assert f"the weights {VIT} are not in {cache}, and HF_HUB_OFFLINE forbids to ask the hub" in caught.value.message
    for word in (f"hf download {VIT} model.safetensors config.json", "models--timm--test_vit.r160_in1k", str(cache)):
        assert word in caught.value.hint


def hub_at(monkeypatch, port):
    """Let the hub's client call this machine."""
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")


def test_a_hub_that_never_answers_is_not_waited_for(cache, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes the call, and says nothing
        hub_at(monkeypatch, server.getsockname()[1])
        with pytest.raises(MissingPartError, match=r"the hub does not (answer within 2 s|give them)"):
            create_model(VIT, pretrained=True)


class Hub(SimpleHTTPRequestHandler):
    """A mirror: the files of its folder, as the hub serves them."""

    def end_headers(self):
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hash(self.path)}"')  # names the file in the cache
        super().end_headers()

    def send_error(self, code, *_):
        self.send_response(code)
        repository = Path(self.directory, *self.path.split("/")[1:3])
        self.send_header("X-Error-Code", "EntryNotFound" if repository.exists() else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_the_hub_is_asked_once_and_its_files_are_kept(cache, tmp_path, monkeypatch):
    tensors, others = fresh_tensors("test_vit"), fresh_tensors("test_resnet")
    put(tmp_path / "mirror" / VIT / "resolve" / "main", tensors, record_of("test_vit.r160_in1k"))
    put(tmp_path / "mirror" / RESNET / "resolve" / "main", others, None)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=tmp_path / "mirror")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub_at(monkeypatch, server.server_port)
        assert same(create_model(VIT, pretrained=True), tensors)
        assert same(create_model(RESNET, pretrained=True), others)
        with pytest.raises(ConfigError, match=f"the weights {COATNET} are not on the hub"):
            create_model(COATNET, pretrained=True)
        server.shutdown()
    assert same(create_model(VIT, pretrained=True), tensors)  # from the cache


def test_missing_weights_are_told_without_torch(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['timm'] = None\n"
        "from coatnet.errors import MissingPartError\n"
        "from coatnet.model.published import find_published\n"
        "try: find_published(sys.argv[1])\n"
        "except MissingPartError: print('missing')"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    for name in (DEFAULT, "timm/coatnet_0_rw_224", "timm/resnet50.a1_in1k"):
        command = [sys.executable, "-c", code, name]
        assert subprocess.run(command, capture_output=True, text=True, env=environment).stdout == "missing\n"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("timm/tset_vit", "timm has no model 'timm/tset_vit'; did you mean timm/test_vit"),
        ("timm/coatnet_0_224", "no weights of timm/coatnet_0_224 are published"),
        ("coatnet_0", "no weights are published for 'coatnet_0'"),
        ("timm/../../secret", "'timm/../../secret' is not a name of published weights"),
    ],
)
def test_a_name_without_weights_is_told(name, told):
    with pytest.raises(ConfigError, match=told):
        create_model(name, pretrained=True)


def test_names():
    assert is_published_name("timm/resnet50.a1_in1k")
    assert is_published_name("timm/resnet50")
    assert not any(map(is_published_name, ("resnet50.a1_in1k", "timm/", "timm/a/b", "timm/a.b.c", "timm/a\n")))


# --- what is refused -------------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return print, ("the code of a pickle ran",)


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


def reshaped(tensors, name, *shape):
    return {**tensors, name: tensors[name].reshape(*shape)}


FIRST = "stages.0.blocks.0.conv1_1x1.weight"
TABLE = "stages.2.blocks.0.attn.rel_pos.relative_position_bias_table"
REFUSED = {
    "empty": lambda tensors: b"",
    "truncated": lambda tensors: save(tensors)[:5000],
    "pickle": lambda tensors: pickle.dumps(Bomb()),
    "no tensors": lambda tensors: {},
    "a name less": lambda tensors: without(tensors, FIRST),
    "a name more": lambda tensors: {**tensors, "extra": torch.zeros(3)},
    "another name": lambda tensors: {**without(tensors, FIRST), "other": tensors[FIRST]},
    "the head less": lambda tensors: without(tensors, "head.fc.weight"),
    # What timm's filter would make fit without a word: it reshapes whatever has the right number of elements.
    "turned": lambda tensors: reshaped(tensors, FIRST, *reversed(tensors[FIRST].shape[:2])),
    "flat table": lambda tensors: reshaped(tensors, TABLE, *reversed(tensors[TABLE].shape)),
    "another grid": lambda tensors: {**tensors, TABLE: torch.zeros(13 * 13, tensors[TABLE].shape[1])},
}


@pytest.mark.parametrize("damage", REFUSED)
def test_damaged_weights_are_refused(cache, damage, capfd):
    tensors = fresh_tensors("test_coatnet")
    put_in_cache(cache, TINY, REFUSED[damage](tensors), record_of("test_coatnet"))
    with pytest.raises(ModelFileError) as caught:
        create_model(TINY, pretrained=True)
    assert "\n" not in caught.value.message
    assert str(cache) in caught.value.message
    assert "the code of a pickle ran" not in capfd.readouterr().out


def test_a_mismatch_names_both_sides(cache):
    tensors = fresh_tensors("test_coatnet")
    changed = {**without(tensors, FIRST), "other": tensors[FIRST]}
    put_in_cache(cache, TINY, changed, record_of("test_coatnet"))
    with pytest.raises(ModelFileError, match=rf"in the file only \(1\): other; in the model only \(1\): {FIRST}"):
        create_model(TINY, pretrained=True, num_classes=5)


def test_weights_of_another_network_are_refused(cache):
    put_in_cache(cache, VIT, fresh_tensors("test_resnet"), record_of("test_vit.r160_in1k"))
    with pytest.raises(ModelFileError, match=r"do not fit the model; in the file only \(\d+\): "):
        create_model(VIT, pretrained=True)


def changed_record(**changes):
    return record_of("test_vit.r160_in1k", **changes)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ("{", "config.json is not JSON"),
        ("[" * 100_000, "config.json is not JSON"),
        ("[]", "config.json is not a record of weights"),
        (json.dumps({"pretrained_cfg": 3}), "architecture: Field required"),
        (record_of("test_resnet.r160_in1k"), "is the record of test_resnet, not of test_vit"),
        (changed_record(mean=None), "mean: Field required"),
        (changed_record(mean=["a", 0, 0]), "mean.0: Input should be a valid number"),
        (changed_record(input_size=[1, 160, 160]), "input_size.0: Input should be 3"),
        (changed_record(crop_mode="spiral"), "crop_mode: Input should be 'center', 'squash' or 'border'"),
        (changed_record(label_names="abc"), "label_names: Input should be a valid array"),
        ({**changed_record(), "architecture": "hf-hub:me/mine"}, "architecture: String should match pattern"),
        ({**changed_record(), "num_classes": -1}, "num_classes: Input should be greater than or equal to 0"),
    ],
)
def test_a_damaged_record_is_refused(cache, record, told):
    put_in_cache(cache, VIT, fresh_tensors("test_vit"), record)
    with pytest.raises(ModelFileError) as caught:
        create_model(VIT, pretrained=True)
    assert told in caught.value.message
    assert "\n" not in caught.value.message


def test_a_folder_names_its_network_itself(tmp_path):
    folder = put(tmp_path / "own", fresh_tensors("test_vit"), record_of("test_vit.r160_in1k"))
    record, files = find_published("", folder)
    assert (record.architecture, files.weights.name) == ("test_vit", "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**record_of("test_vit.r160_in1k"), "architecture": "mine"}))
    with pytest.raises(ModelFileError, match="timm has no model 'timm/mine'"):
        find_published("", folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelFileError, match=r"has no config.json"):
        find_published("", folder)
    with pytest.raises(ModelFileError, match="holds no weights"):
        find_published(VIT, tmp_path)
    with pytest.raises(ModelFileError, match="does not exist"):
        find_published(VIT, tmp_path / "nowhere")


# --- the list --------------------------------------------------------------------------------------------------------


def test_the_catalogue_is_what_timm_publishes():
    assert set(CATALOGUE) == {f"timm/{name}" for name in timm.list_models(["coatnet*", "coatnext*"], pretrained=True)}
    assert len(CATALOGUE) == 16
    assert DEFAULT in CATALOGUE
    for name, entry in CATALOGUE.items():
        record = Published.registered(name)
        assert (entry.num_classes, entry.image_size) == (record.num_classes, record.image_size)
        assert (entry.mean, entry.std, INTERPOLATION) == (record.mean, record.std, record.interpolation)
        assert (entry.crop_fraction, entry.crop_mode) == (record.crop_pct, record.crop_mode)
        assert (entry.top1 is None) == (entry.num_classes != 1000)


def test_a_coatnet_without_a_tag_is_what_timm_takes(cache):
    for architecture in {name.partition(".")[0] for name in CATALOGUE}:
        tag = timm.models.get_pretrained_cfg(architecture.removeprefix("timm/")).tag
        with pytest.raises(MissingPartError, match=rf"{architecture}\.{tag} "):
            find_published(architecture)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if "nano" in name else pytest.mark.slow) for name in CATALOGUE]
)
def test_sizes_of_the_catalogue(name):
    config, entry = guest(name), CATALOGUE[name]
    assert guest_size(config, config.image_size, config.image_size) == (entry.parameters, entry.multiply_adds)
