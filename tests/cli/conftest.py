"""The zoo of broken things, and a way to run commands in it."""

import pytest

from cli.zoo import make_zoo


@pytest.fixture(scope="session")
def zoo(tmp_path_factory, tiny_classifier):
    """See `zoo.py`. Only read."""
    return make_zoo(tmp_path_factory.mktemp("zoo"), tiny_classifier)


@pytest.fixture
def in_zoo(zoo, monkeypatch):
    """Work in the zoo."""
    monkeypatch.chdir(zoo)
    return zoo
