"""TorchServe's archives and model stores, found and read as they stand."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchserve_archives import write_archive

from salver.core.errors import InvalidConfig, LoadError
from salver.runtimes.base import LoadedModel
from salver.runtimes.detect import detect
from salver.runtimes.table import create
from salver.store.layouts.foreign import ForeignModel
from salver.store.layouts.torchserve import read_model, read_root
from salver.store.layouts.torchserve_properties import parse_properties
from salver.store.repository import Layout, ModelEntry, scan, to_spec

ECHO = """
def handle(data, context):
    return None if data is None else [row["data"] + context.manifest["model"]["modelVersion"].encode() for row in data]
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "served" / "model-store"


def archive(store: Path, name: str = "echo", version: str = "1.0", *, file: str = "", **settings: Any) -> Path:
    path = write_archive(store, name, version=version, code=ECHO, **settings)
    return path.rename(store / file) if file else path


def root(folder: Path) -> dict[str, ForeignModel]:
    found = read_root(folder)
    assert found is not None
    return dict(found)


def load(entry: ModelEntry, version: str) -> LoadedModel:
    assert not entry.error, entry.error
    runtime, path = detect(entry.versions[version].path, entry.config.runtime)
    return create(runtime, allow_code=True).load(to_spec(entry, version, runtime=runtime, artifact=path))


def answer(entry: ModelEntry, version: str) -> bytes:
    model = load(entry, version)
    try:
        (element,) = model.predict({"data": np.array([b"x"], object)}, None, {})["output"]
    finally:
        model.close()
    assert isinstance(element, bytes)
    return element


def write_properties(folder: Path, **values: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{key}={value if isinstance(value, str) else json.dumps(value)}\n" for key, value in values.items()]
    (folder / "config.properties").write_text("# of TorchServe\n" + "".join(lines))


def test_a_store_of_archives_is_served_by_their_names_and_versions(store: Path) -> None:
    archive(store, version="1.0", file="first.mar")
    archive(store, version="2.0", file="second.mar")
    archive(store, "other", form="no-archive")
    listing = scan(store)
    assert listing.layout is Layout.FOREIGN
    assert {name: list(entry.versions) for name, entry in listing.models.items()} == {
        "echo": ["1", "2"],
        "other": ["1"],
    }
    echo = listing.models["echo"]
    assert (echo.config.runtime, echo.config.max_batch_size) == ("torchserve", 1)
    assert any("first.mar: version '1.0' is called '1' here" in problem for problem in echo.problems)
    assert answer(echo, "1") == b"x1.0"
    assert answer(echo, "2") == b"x2.0"
    assert answer(listing.models["other"], "1") == b"x1.0"
    # The folder around it is the same repository.
    assert scan(store.parent).models["echo"].versions.keys() == {"1", "2"}


def test_single_archives(store: Path, tmp_path: Path) -> None:
    path = archive(store, "echo", "1.2", file="some name.mar")
    listing = scan(path)
    assert listing.layout is Layout.FILE
    assert list(listing.models["echo"].versions) == ["1p2"]
    folder = archive(store, "echo", form="no-archive")
    assert answer(scan(folder).models["echo"], "1") == b"x1.0"
    # In Salver's own form, the folders name the model and its versions.
    version = tmp_path / "repository" / "mine" / "7"
    version.mkdir(parents=True)
    path.rename(version / "model.mar")
    for place in (version, version.parent, version.parent.parent):
        assert {name: list(entry.versions) for name, entry in scan(place).models.items()} == {"mine": ["7"]}


@pytest.mark.parametrize(
    ("written", "version"),
    [
        ("1.0", "1"),
        ("3", "3"),
        ("007", "7"),
        ("2.0.0", "2"),
        ("1.2", "1p2"),
        ("v1.0-rc_1", "v1p0rc1"),
        ("beta", "beta"),
    ],
)
def test_versions_in_salvers_words(store: Path, written: str, version: str) -> None:
    found = read_model(archive(store, version=written))
    assert found is not None
    assert found.wanted == (version,)
    assert bool(found.problems) == (written != version)


def test_settings_of_the_server_and_of_archives(store: Path) -> None:
    archive(store, "one", settings="batchSize: 4\nmaxBatchDelay: 100\nhandler:\n  x: 1\nparallelType: pp\n")
    archive(store, "two")
    archive(store, "three")
    settings = {"marName": "one.mar", "batchSize": 9, "minWorkers": 2, "maxWorkers": 4, "responseTimeout": 30}
    two = {"defaultVersion": True, "marName": "two.mar", "deviceType": "gpu", "deviceIds": [1, 2], "jobQueueSize": 5}
    write_properties(
        store.parent,
        inference_address="http://0.0.0.0:8080",
        model_store="/home/model-server/model-store",
        load_models="all",
        default_workers_per_model="3",
        models={"one": {"1.0": settings}, "two": {"1.0": two}},
    )
    models = root(store.parent)
    assert models["one"].config.model_dump(exclude_unset=True) == {
        "runtime": "torchserve",
        "max_batch_size": 4,  # the archive's own settings go first
        "max_queue_delay": 0.1,
        "instances": 2,
        "execution_timeout": 30.0,
        "isolation": "process",
    }
    assert models["two"].config.model_dump(exclude_unset=True) == {
        "runtime": "torchserve",
        "max_batch_size": 1,
        "instances": 3,
        "max_queue": 5,
        "device": "cuda:1",
    }
    assert models["two"].aliases == {"default": "1"}
    assert models["three"].config.instances == 3
    told = [problem for model in models.values() for problem in model.problems]
    for named in ("not up to 4", "'parallelType'", "on cuda:1; others", "not followed: inference_address"):
        assert sum(named in problem for problem in told) == 1, (named, told)


def test_load_models_chooses_and_names(store: Path) -> None:
    for name in ("one", "two", "three"):
        archive(store, name)
    write_properties(store.parent / "config", load_models="one.mar, other=two.mar,gone.mar")
    models = root(store.parent)
    assert set(models) == {"one", "other"}
    assert any("'gone.mar', which is not in the model store" in problem for problem in models["one"].problems)
    write_properties(store.parent / "config", load_models="gone.mar")
    with pytest.raises(InvalidConfig, match=r"gone\.mar.*; there are one\.mar, three\.mar, two\.mar"):
        read_root(store.parent)
    snapshot = {"name": "startup.cfg", "modelCount": 1, "models": {"two": {"1.0": {"marName": "two.mar"}}}}
    write_properties(store.parent / "config", model_snapshot=snapshot)
    assert set(root(store.parent)) == {"two"}


def test_a_default_version_that_isnt_the_newest(store: Path) -> None:
    archive(store, version="1.0", file="a.mar")
    archive(store, version="2.0", file="b.mar", settings="minWorkers: 2\n")
    settings = {"1.0": {"defaultVersion": True, "marName": "a.mar"}, "2.0": {"marName": "b.mar"}}
    write_properties(store, models={"echo": settings})
    model = root(store)["echo"]
    assert (model.aliases, model.wanted) == ({"default": "1"}, ("1", "2"))
    assert model.config.instances == 2
    assert any("requests that name no version get the newest, 2" in problem for problem in model.problems)
    assert any("differ in instances" in problem for problem in model.problems)


def test_one_bad_archive_spoils_no_other(store: Path) -> None:
    archive(store, "good")
    archive(store, "good", file="twice.mar")
    archive(store, "good")
    (store / "broken.mar").write_bytes(b"PK is not enough")
    with zipfile.ZipFile(store / "empty.mar", "w") as opened:
        opened.writestr("handler.py", "")
    archive(store, "greedy", settings="minWorkers: 100000\n")
    archive(store, "wrong", settings="batchSize: many\n")
    listing = scan(store)
    assert set(listing.models) == {"broken", "empty", "good", "greedy", "wrong"}
    told = {name: " ".join(entry.problems) for name, entry in listing.models.items()}
    assert "isn't a whole model archive" in told["broken"]
    assert "has no MAR-INF/MANIFEST.json" in told["empty"]
    assert "instances: " in told["greedy"]
    assert "batchSize is a whole number, not 'many'" in told["wrong"]
    assert "twice.mar is left out: good.mar is version 1 already" in " ".join(told.values())
    assert answer(listing.models["good"], "1") == b"x1.0"
    for name in ("broken", "empty"):
        with pytest.raises(LoadError):
            load(listing.models[name], "1")
    assert "isn't a whole model archive" in scan(store / "broken.mar").models["broken"].error


def test_a_change_of_archive_or_properties_is_noticed(store: Path) -> None:
    archive(store)
    before = scan(store)
    assert scan(store, previous=before) == before
    write_properties(store, default_workers_per_model="2", load_models="all")
    after = scan(store, previous=before)
    assert after.models["echo"].versions["1"].fingerprint != before.models["echo"].versions["1"].fingerprint
    archive(store, settings="batchSize: 8\n")
    assert scan(store, previous=after).models["echo"].config.max_batch_size == 8


def test_what_is_no_model_store(tmp_path: Path, store: Path) -> None:
    assert read_root(tmp_path) is None
    (tmp_path / "config.properties").write_text("color=blue\n")
    assert read_root(tmp_path) is None
    write_properties(tmp_path, load_models="x.mar")
    with pytest.raises(LoadError, match="lists models, and there are no archives"):
        read_root(tmp_path)
    path = archive(store)
    assert read_model(store) is None
    (store / "model.onnx").write_bytes(b"")
    assert read_root(store) is None
    assert read_root(path) is None
    write_properties(store, models="{")
    with pytest.raises(InvalidConfig, match="models isn't JSON"):
        read_root(store)


def test_properties_files_of_java() -> None:
    text = 'a=1\n# no\n! no\nb : two words \nc = {\\\n  "x": \\\n  1}\n\nurl=http\\://h\\:1\nflag\n'
    assert parse_properties(text) == {"a": "1", "b": "two words", "c": '{"x": 1}', "url": "http://h:1", "flag": ""}
