"""TensorFlow Serving's list of models: as it is read, and with real SavedModels as Salver serves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_models import engine_over, request

from salver.core.errors import InvalidConfig
from salver.store.layouts.foreign import ForeignModel
from salver.store.layouts.readers import read_root as read_any_root
from salver.store.layouts.tensorflow_serving import read_model, read_root
from salver.store.repository import Layout, scan


def make(root: Path, name: str, *versions: str) -> Path:
    """A model folder; what is in its files doesn't matter to who lists them."""
    for version in versions:
        (root / name / version).mkdir(parents=True)
        (root / name / version / "saved_model.pb").write_bytes(b"...")
    return root / name


def write(root: Path, *configs: str, name: str = "models.config") -> None:
    listed = "\n".join(f"  config {{\n    {config}\n  }}" for config in configs)
    (root / name).write_text(f"model_config_list {{\n{listed}\n}}\n")


def read(root: Path) -> dict[str, ForeignModel]:
    found = read_root(root)
    assert found is not None
    return dict(found)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_a_list_of_two_models(root: Path, tmp_path: Path) -> None:
    make(root, "first", "1", "2", "10")
    elsewhere = make(tmp_path / "elsewhere", "second", "7")
    write(
        root,
        'name: "first" base_path: "/models/first" model_platform: "tensorflow"',
        f'name: "renamed", base_path: "{elsewhere}"; model_platform: "tensorflow" model_version_policy {{ all {{}} }}',
    )
    models = read(root)
    assert list(models) == ["first", "renamed"]
    first, renamed = models.values()
    assert (first.name, first.system, first.folder) == ("first", "TensorFlow Serving", root / "first")
    assert dict(first.versions) == {version: root / "first" / version for version in ("1", "2", "10")}
    assert (first.wanted, first.config.versions, first.config.runtime) == (("10",), "latest", "tensorflow")
    assert (renamed.folder, renamed.wanted, renamed.config.versions) == (elsewhere, ("7",), "all")
    assert first.error == renamed.error == ""
    assert first.problems == renamed.problems == ()
    assert read_any_root(root) == models  # no other system's reader takes it


@pytest.mark.parametrize(
    ("policy", "wanted", "versions"),
    [
        ("", ("3",), "latest"),
        ("model_version_policy {}", ("3",), "latest"),
        ("model_version_policy { latest {} }", ("3",), "latest"),
        ("model_version_policy { latest { num_versions: 2 } }", ("2", "3"), ("2", "3")),
        ("model_version_policy: < latest: < num_versions: 9 > >", ("1", "2", "3"), ("1", "2", "3")),
        ("model_version_policy { all {} }", ("1", "2", "3"), "all"),
        ("model_version_policy { specific { versions: 3 versions: 1 } }", ("1", "3"), ("1", "3")),
        ("model_version_policy { specific { versions: [2] } }", ("2",), ("2",)),
    ],
)
def test_version_policies(root: Path, policy: str, wanted: tuple[str, ...], versions: object) -> None:
    make(root, "net", "1", "2", "3")
    write(root, f'name: "net" base_path: "net" {policy}')
    model = read(root)["net"]
    assert (model.wanted, model.config.versions, model.error) == (wanted, versions, "")


def test_labels_are_aliases(root: Path) -> None:
    make(root, "net", "41", "42", "43")
    write(
        root,
        """name: "net" base_path: "net"
    model_version_policy { specific { versions: 42 versions: 43 versions: 99 } }
    version_labels { key: 'stable' value: 42 }
    version_labels { key: 'canary' value: 43 }
    version_labels { key: 'old' value: 41 }
    version_labels { key: 'none' value: 7 }
    version_labels { key: 'no alias' value: 42 }""",
    )
    model = read(root)["net"]
    assert dict(model.aliases) == {"stable": "42", "canary": "43"}
    assert model.error == ""
    assert [problem.split(": ", 1) for problem in model.problems] == [
        ["models/models.config, line 4", "'specific' lists 42, 43, 99, and there is 41, 42, 43"],
        [
            "models/models.config, line 7",
            "label 'old' of version 41 is left out: 'model_version_policy' leaves that version out; it serves 42, 43",
        ],
        [
            "models/models.config, line 8",
            "label 'none' of version 7 is left out: there is no such version, but 41, 42, 43",
        ],
        [
            "models/models.config, line 9",
            "label 'no alias' of version 42 is left out: 'no alias' can't be an alias: letters, digits, '_', '-' and "
            "'.', a letter first, 64 at most",
        ],
    ]


def test_versions_are_folders_with_numbers(root: Path) -> None:
    make(root, "net", "007", "8", "temporary", "v9", "-1")
    (root / "net" / "9").mkdir()  # being made
    write(root, 'name: "net" base_path: "net" model_version_policy { all {} }')
    assert dict(read(root)["net"].versions) == {"7": root / "net" / "007", "8": root / "net" / "8"}


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ("base_path: 'missing'", "line 3: there is no folder {root}/missing"),
        (
            "base_path: '/models/missing'",
            "line 3: there is no folder /models/missing, nor {root}/missing",
        ),
        (
            "base_path: 's3://key:secret@bucket/net'",
            "line 3: 'base_path' is 's3://***@bucket/net'; only folders can be served. Copy the model here",
        ),
        ("model_platform: 'tensorflow'", "line 2: model 'bad' has no 'base_path', the folder of its versions"),
        ("base_path: 'empty'", "bad has no version: expected {root}/empty/1/ with a SavedModel in it"),
        (
            "base_path: 'good' model_platform: 'xla'",
            "line 3: 'model_platform' is 'xla'; only 'tensorflow' can be served",
        ),
        ("base_path: 'good' model_type: OTHER", "line 3: 'model_type' is OTHER; only TENSORFLOW can be served"),
        (
            "base_path: 'good' model_version_policy { specific { versions: 9 } }",
            "line 3: 'specific' lists 9, and there is 1",
        ),
        (
            "base_path: 'good' model_version_policy { specific {} }",
            "line 3: 'specific' lists no versions, and there is 1",
        ),
        (
            "base_path: 'good' model_version_policy { latest { num_versions: 0 } }",
            "line 3: 'num_versions' has to be at least 1, not 0",
        ),
        (
            "base_path: 'good' model_version_policy { all {} latest {} }",
            "line 3: 'model_version_policy' has 'all', 'latest'; expected one of 'latest', 'all', 'specific'",
        ),
        ("base_path: 7", "line 3: 'base_path' has to be text, not 7"),
        ("base_path: 'good' model_version_policy: ALL", "line 3: 'model_version_policy' has to be a message in {{ }}"),
    ],
)
def test_a_broken_model_leaves_the_others_alone(root: Path, config: str, error: str) -> None:
    make(root, "good", "1")
    (root / "empty").mkdir()
    write(root, f"name: 'bad' {config}", "name: 'good' base_path: 'good'")
    models = read(root)
    expected = error.format(root=root)
    assert models["bad"].error.startswith(
        f"models/models.config, {expected}" if expected.startswith("line") else expected
    )
    assert (models["bad"].wanted, models["good"].error, models["good"].wanted) == ((), "", ("1",))
    assert scan(root).models["bad"].error == models["bad"].error


def test_a_name_that_no_url_can_hold(root: Path) -> None:
    make(root, "good", "1")
    write(root, "name: 'a/b' base_path: 'good'")
    assert read(root)["a/b"].error.startswith("models/models.config, line 3: 'a/b' can't be a model name: letters")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "models/models.config: is empty; expected model_config_list { config { ... } }"),
        ("model_config_list {\n config {", "models/models.config, line 2: the text ends before the '}' of the message"),
        ("model_config_list { config { base_path: 'x' } }", "models/models.config, line 1: a model has no 'name'"),
        ("custom_model_config { }", "models/models.config, line 1: custom_model_config can't be read; list models in"),
        (
            "model_config_list {\n config { name: 'a' base_path: 'x' }\n config { name: 'a' base_path: 'y' }\n}",
            "models/models.config, line 3: a second model is named 'a'; names must differ",
        ),
    ],
)
def test_lists_that_are_refused(root: Path, text: str, message: str) -> None:
    (root / "models.config").write_text(text)
    with pytest.raises(InvalidConfig) as raised:
        read_root(root)
    assert str(raised.value).startswith(message)


def test_folders_without_a_list(root: Path) -> None:
    make(root, "net", "1")
    assert read_root(root) is None
    (root / "models.config").write_text("something: 'else'")
    assert read_root(root) is None
    assert read_model(root / "net") is None
    assert scan(root).layout is Layout.REPOSITORY  # numbered folders of SavedModels are Salver's own form


def test_the_other_name_of_a_list(root: Path) -> None:
    make(root, "net", "1")
    write(root, 'name: "net" base_path: "net"', name="model.config")
    assert read(root).keys() == {"net"}


def test_what_has_no_equivalent_is_told(root: Path) -> None:
    folder = make(root, "net", "1")
    (folder / "1" / "batching_params.pbtxt").write_text("max_batch_size { value: 8 }")
    (folder / "1" / "assets.extra").mkdir()
    (folder / "1" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"...")
    (root / "batching_parameters.txt").write_text("max_batch_size { value: 8 }")
    (root / "monitoring.config").write_text("prometheus_config { enable: true }")
    write(root, 'name: "net" base_path: "net" logging_config { sampling_config { sampling_rate: 0.1 } }')
    assert [problem.split(": ")[0] for problem in read(root)["net"].problems] == [
        "models/models.config, line 3",
        "models/batching_parameters.txt",
        "models/monitoring.config",
        "net/1/batching_params.pbtxt",
        "net/1/assets.extra/tf_serving_warmup_requests",
    ]
    assert read(root)["net"].problems[0].endswith("'logging_config' has no equivalent here, and is not followed")


def test_adding_a_model_does_not_load_the_others_anew(root: Path) -> None:
    make(root, "first", "1")
    make(root, "second", "1")
    write(root, 'name: "first" base_path: "first"')
    before = scan(root)
    write(root, 'name: "first" base_path: "first"', 'name: "second" base_path: "second"')
    after = scan(root, previous=before)
    assert after.models.keys() == {"first", "second"}
    assert after.models["first"].versions == before.models["first"].versions


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore::DeprecationWarning:(tensorflow|keras|google|flatbuffers).*")
async def test_real_models_are_served(root: Path) -> None:
    from tensorflow_models import FLOATS, WEIGHTS, save_linear

    for version in (1, 2, 3):
        save_linear(root / "net" / str(version), factor=version)
    save_linear(root / "files" / "5", factor=5)
    write(
        root,
        """name: "net" base_path: "/models/net" model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 versions: 3 } }
    version_labels { key: "stable" value: 1 }""",
        'name: "other" base_path: "files" model_platform: "tensorflow"',
    )
    listing = scan(root)
    assert listing.layout is Layout.FOREIGN
    assert dict(listing.models["net"].aliases) == {"stable": "1"}
    async with engine_over(root) as engine:
        for model, version, factor in (("net", "", 3), ("net", "1", 1), ("net", "3", 3), ("other", "5", 5)):
            answer = await engine.predict(request(model, version, x=FLOATS))
            np.testing.assert_allclose(answer.outputs["y"], factor * FLOATS @ WEIGHTS)
