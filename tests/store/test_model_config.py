"""The schema of model.yaml."""
# ruff: noqa: E501 -- error texts are compared whole

from __future__ import annotations

from pathlib import Path

import pytest

from salver.core.errors import InvalidConfig
from salver.core.scheduling import Padding, Priorities, Scheduling, Sequences, WarmUp
from salver.core.signature import TensorSpec
from salver.store.model_config import ModelConfig, read_model_config

EVERYTHING = """\
runtime: onnx
device: cuda:1
inputs:
  - {name: image, datatype: FP32, shape: [-1, 3, 224, 224]}
  - {name: text, datatype: BYTES, shape: [-1], optional: true}
outputs:
  - name: scores
batched: true
versions: [1, 3, beta]
threads: 2
isolation: process
instances: 2
max_batch_size: 32
max_queue_delay: 2ms
preferred_batch_sizes: [8, 4, 8]
padding: {text: {value: "", lengths: [64, 32]}}
max_queue: 50
priorities: {levels: 4, default: 3, max_queue: {1: 5}}
sequences: {idle_timeout: 5m, max_sequences: 10}
resources: {gpu_slots: 1}
weight: 2
pinned: true
tenant: acme
execution_timeout: 30s
memory_limit: 1GiB
python: .venv
idempotent: true
response_cache: 64MiB
warm_up: [{batch_size: 8, count: 3}, {file: warm_up/one.json}]
description: A sentence.
labels: {owner: vision}
options: {anything: [1, 2]}
requirements: [pandas>=2.1]
"""


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "model.yaml"
    path.write_text(text)
    with pytest.raises(InvalidConfig) as caught:
        read_model_config(path, shown_as="model.yaml")
    return str(caught.value)


def test_every_key(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(EVERYTHING)
    config = read_model_config(path)
    assert config.model_fields_set == set(ModelConfig.model_fields), "a key is missing in this test"
    assert config.input_specs() == (
        TensorSpec("image", "FP32", (-1, 3, 224, 224)),
        TensorSpec("text", "BYTES", (-1,), optional=True),
    )
    assert config.output_specs() == (TensorSpec("scores", None, None),)
    assert config.versions == ("1", "3", "beta")
    assert config.options == {"anything": [1, 2]}
    assert config.requirements == ("pandas>=2.1",)
    assert config.scheduling(tmp_path) == Scheduling(
        max_batch_size=32,
        max_queue_delay=0.002,
        preferred_batch_sizes=(4, 8),
        padding={"text": Padding("", (32, 64))},
        instances=2,
        execution_timeout=30.0,
        memory_limit=2**30,
        python=tmp_path / ".venv",
        idempotent=True,
        max_queue=50,
        priorities=Priorities(4, 3, {1: 5}),
        sequences=Sequences(300.0, 10),
        resources={"gpu_slots": 1},
        weight=2.0,
        response_cache=64 * 2**20,
        warm_up=(WarmUp(None, 8, 3), WarmUp(tmp_path / "warm_up" / "one.json")),
    )


def test_nothing_set_is_the_default_scheduling(tmp_path: Path) -> None:
    assert ModelConfig().scheduling(tmp_path) == Scheduling()


def test_what_is_left_out_is_read_from_the_files() -> None:
    config = ModelConfig()
    assert (config.input_specs(), config.output_specs(), config.batched, config.runtime) == (None, None, None, None)
    assert (config.device, config.versions) == ("auto", "all")


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:15"])
def test_devices(device: str) -> None:
    assert ModelConfig(device=device).device == device


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("devise: cpu", "1: unknown key 'devise'; did you mean 'device'?"),
        ("device: gpu", "1: 'device' must be auto, cpu, cuda or cuda:N (such as cuda:0), got 'gpu'"),
        ("device: cuda:", "1: not valid YAML: mapping values are not allowed in this context"),
        ("device: 'cuda:x'", "1: 'device' must be auto, cpu, cuda or cuda:N (such as cuda:0), got 'cuda:x'"),
        ("device: |\n  cpu\n", "1: 'device' must be auto, cpu, cuda or cuda:N (such as cuda:0), got 'cpu\\n'"),
        ("threads: many", "1: 'threads' must be an integer from 1 to 4096, got 'many'"),
        ("threads: true", "1: 'threads' must be an integer from 1 to 4096, got true"),
        ("threads: 1.0", "1: 'threads' must be an integer from 1 to 4096, got 1.0"),
        ("batched: maybe", "1: 'batched' must be true or false, got 'maybe'"),
        ("isolation: jail", "1: 'isolation' must be 'auto' or 'inline' or 'thread' or 'process', got 'jail'"),
        ("versions: newest", "1: 'versions' must be all, latest, or a list of versions such as [1, 2], got 'newest'"),
        ("versions: []", "1: 'versions' must be all, latest, or a list of versions such as [1, 2], got an empty list"),
        ("versions: [1, v1.0]", "1: 'versions': 'v1.0' can't be a version: an integer, or letters and digits, 64 at most"),
        ("inputs: []", "1: 'inputs': the list is empty; leave the key out to read the tensors from the model's files"),
        ("inputs:\n- {name: x}\n- {name: x}", "1: 'inputs': two tensors are named 'x'; names must differ"),
        ("inputs:\n- {shape: [1]}", "2: missing key 'name' in inputs[0]"),
        ("inputs:\n- {name: x, dtype: FP32}", "2: unknown key 'dtype' in inputs[0]; did you mean 'datatype'?"),
        ("inputs:\n- name: x\n  shape: [1,\n    -2]", "4: 'inputs[0].shape[1]' must be an integer of at least -1 (any size), got -2"),
        ("inputs:\n- name: x\n  shape: 3", "3: 'inputs[0].shape' must be a list of integers of at least -1 (-1 is any size), such as [-1, 3, 224, 224], got 3"),
        ("inputs:\n- name: x\n  shape: [" + "1," * 65 + "]", "3: 'inputs[0].shape' must have a length of at most 64, got 65"),
        ("batched: true\noutputs:\n- {name: x, shape: [3]}", "1: with 'batched: true' every shape begins with -1, the batch dimension, and the shape of 'x' is [3]"),
        ("labels: {stage: 1}", "1: 'labels.stage' must be text, got 1; put it in quotes"),
        ("options: 3", "1: 'options' must be a map of names to values, got 3"),
        ("requirements: pandas", "1: 'requirements' must be a list of texts such as 'pandas>=2.1', got 'pandas'"),
    ],
)  # fmt: skip
def test_errors(tmp_path: Path, text: str, expected: str) -> None:
    assert refused(tmp_path, text) == f"model.yaml:{expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("instances: 0", "1: 'instances' must be an integer from 1 to 1024, got 0"),
        ("memory_limit: 1GiB", "'memory_limit' needs a process to hold to it; set 'isolation: process'"),
        ("python: .venv", "'python' needs a process to hold to it; set 'isolation: process'"),
        ("execution_timeout: 1s\nisolation: thread", "'execution_timeout' needs a process to hold to it"),
        ("isolation: process\nexecution_timeout: 0", "2: 'execution_timeout' must be"),
        ("max_batch_size: 4\npreferred_batch_sizes: [2, 8]", "preferred_batch_sizes has 8, which is more than"),
        ("preferred_batch_sizes: 4", "1: 'preferred_batch_sizes' must be a list of batch sizes such as [4, 8], got 4"),
        ("padding:\n  x: {valve: 0}", "2: unknown key 'valve' in padding.x; did you mean 'value'?"),
        ("priorities: {levels: 2, default: 3}", "there is no level 3; there are 2"),
        ("priorities: {max_queue: {9: 1}}", "there is no level 9; there are 3"),
        ("sequences: {idle_timeout: 0}", "1: 'sequences.idle_timeout' must be"),
        ("resources: {gpu: 0}", "1: 'resources.gpu' must be an integer of at least 1, got 0"),
        ("weight: 0", "1: 'weight' must be"),
        ("warm_up: [{file: ../x.json}]", "'../x.json' leads out of the model's folder"),
        ("warm_up: [{file: /etc/passwd}]", "leads out of the model's folder"),
        ("response_cache: lots", "1: 'response_cache' must be a size in bytes"),
    ],
)
def test_errors_of_scheduling(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("datatype", "hint"),
    [
        ("float32", "did you mean 'FP32'?"),
        ("TYPE_STRING", "did you mean 'BYTES'?"),
        ("TYPE_FP16", "did you mean 'FP16'?"),
        ("FP31", "did you mean 'FP32'?"),
        ("uint8", "did you mean 'UINT8'?"),
        ("complex", "valid values are BOOL, "),
    ],
)
def test_an_unknown_datatype_names_the_nearest(tmp_path: Path, datatype: str, hint: str) -> None:
    text = refused(tmp_path, f"outputs:\n- name: y\n  datatype: {datatype}\n")
    assert text.startswith(f"model.yaml:3: 'outputs[0].datatype': unknown datatype '{datatype}'; {hint}")
