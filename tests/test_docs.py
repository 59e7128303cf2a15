"""The documents say everything that there is to say: what is added without a word about it fails here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from pydantic import BaseModel

from salver.config import ServerSettings, read_settings
from salver.config.settings import STORE_SETTINGS, environment_variable
from salver.core.tensor import DTYPES
from salver.frontends import grpc_errors
from salver.frontends.openapi import document as openapi_document
from salver.graph.document import read_graph
from salver.graph.spec import (
    CombineConfig,
    EnsembleConfig,
    FallbackConfig,
    GraphConfig,
    MapConfig,
    SourceConfig,
    StepConfig,
)
from salver.monitoring.metrics import METRICS
from salver.monitoring.statistics import OUTCOMES
from salver.store.model_config import ModelConfig, TensorConfig, read_model_config
from salver.wire.v2_proto import pool

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def document(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def first_cells(text: str) -> dict[str, str]:
    """The rows of a document's tables by the code in their first cell."""
    return {match[1]: match[0] for match in re.finditer(r"^\| `([^`]+)` \|.*$", text, flags=re.MULTILINE)}


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def missing(wanted: Iterable[str], rows: Iterable[str]) -> list[str]:
    return sorted(set(wanted) - set(rows))


def test_every_setting_has_a_row_with_its_variable() -> None:
    rows = first_cells(document("configuration.md"))
    assert not missing(ServerSettings.model_fields, rows)
    for name, row in rows.items():
        assert name in ServerSettings.model_fields, f"{name} is documented and doesn't exist"
        assert f"`{environment_variable(name)}`" in row


def test_defaults_of_settings_are_as_documented() -> None:
    for name, row in first_cells(document("configuration.md")).items():
        default = row.split("|")[3].strip().strip("`")
        if default:
            source = {"store": "models"} if name in STORE_SETTINGS else {"repository": "models"}
            settings = read_settings(None, {environment_variable(name): default}, source)
            assert getattr(settings, name) == ServerSettings.model_fields[name].default, name
        else:
            field = ServerSettings.model_fields[name]
            assert field.is_required() or not field.get_default(call_default_factory=True), name


@pytest.mark.parametrize("schema", [ModelConfig, TensorConfig])
def test_every_key_of_model_yaml_has_a_row(schema: type[BaseModel]) -> None:
    assert not missing(schema.model_fields, first_cells(document("models.md")))


def test_no_row_of_model_yaml_is_about_a_key_that_is_gone() -> None:
    rows = first_cells(document("models.md").partition("## model.yaml")[2].partition("## Runtimes")[0])
    assert not missing(rows, {*ModelConfig.model_fields, *TensorConfig.model_fields})


def test_every_datatype_is_named() -> None:
    row = first_cells(document("models.md"))["datatype"]
    assert not missing(DTYPES, re.findall(r"`(\w+)`", row))


@pytest.mark.parametrize("schema", [ServerSettings, ModelConfig, TensorConfig])
def test_every_field_has_a_description(schema: type[BaseModel]) -> None:
    for name, field in schema.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_examples_of_model_yaml_are_valid(tmp_path: Path) -> None:
    text = document("models.md")
    examples = code_blocks(text, "yaml") + [
        cell[1] for row in first_cells(text).values() if (cell := re.search(r"\| `((?:\w+: |\{)[^`]+)` \|$", row))
    ]
    assert len(examples) > len(ModelConfig.model_fields) - 3
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yaml"
        path.write_text(example)
        read_model_config(path)


def test_examples_of_settings_files_are_valid(tmp_path: Path) -> None:
    examples = code_blocks(document("configuration.md"), "yaml")
    assert examples
    for example in examples:
        (tmp_path / "salver.yaml").write_text(example)
        read_settings(tmp_path / "salver.yaml", {}, {})


def test_links_between_documents_lead_somewhere() -> None:
    for page in [*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_rest_route_has_a_row_and_every_row_is_a_route() -> None:
    routes = {
        f"{method.upper()} {path}"
        for path, item in openapi_document()["paths"].items()
        for method in item
        if method != "parameters"
    }
    methods = ("GET ", "PUT ", "POST ", "DELETE ")
    rows = {name for name in first_cells(document("rest-api.md")) if name.startswith(methods)}
    assert rows == routes


def test_every_status_has_a_row() -> None:
    rows = set(re.findall(r"^\| (\d{3}) \|", document("rest-api.md"), flags=re.MULTILINE))
    assert rows == set(openapi_document()["components"]["responses"])
    given = {status.name for status in grpc_errors.STATUSES.values()}
    assert not missing(given, first_cells(document("grpc-api.md")))


def test_every_grpc_method_is_named() -> None:
    text = document("grpc-api.md")
    for service in pool.FindFileByName("inference.proto").services_by_name.values():
        for method in service.methods_by_name:
            shared_memory = re.fullmatch(r"(System|Cuda)SharedMemory(Register|Unregister)", method)
            assert shared_memory or f"`{method}`" in text, method


def test_every_metric_has_a_row_and_every_row_is_a_metric() -> None:
    rows = {name for name in first_cells(document("monitoring.md")) if name.startswith("salver_")}
    assert rows == METRICS.keys()


def test_every_outcome_is_named() -> None:
    text = document("monitoring.md")
    for outcome in {*OUTCOMES.values(), "ok", "error", "cancelled"}:
        assert f"`{outcome}`" in text, outcome


def test_queries_use_metrics_that_there_are() -> None:
    queries = "\n".join(re.findall(r"^    .*$", document("monitoring.md"), flags=re.MULTILINE))
    used = set(re.findall(r"salver_\w+", queries))
    assert len(used) > 3
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in used} <= METRICS.keys()


@pytest.mark.parametrize(
    "schema", [GraphConfig, StepConfig, SourceConfig, MapConfig, EnsembleConfig, CombineConfig, FallbackConfig]
)
def test_every_key_of_a_graph(schema: type[BaseModel]) -> None:
    text = document("graphs.md")
    keys = {field.alias or name for name, field in schema.model_fields.items()}
    assert not [key for key in keys if re.search(rf"`[^`]*\b{key}\b[^`]*`", text) is None]


def test_the_graph_in_python_is_the_one_in_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = document("graphs.md")
    written = tmp_path / "graph.yaml"
    written.write_text(code_blocks(text, "yaml")[0])
    (code,) = code_blocks(text, "python")
    exec(compile(code, "graphs.md", "exec"), {})
    assert read_graph(Path("models/loan/1/graph.yaml"))[0] == read_graph(written)[0]
