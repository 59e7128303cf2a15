"""Signatures, probes and versions' names as the database keeps them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from registered_versions import PROBE

from salver.core.model import version_order
from salver.core.registry import Probe
from salver.core.signature import Signature, TensorSpec
from salver.core.tensor import DTYPES
from salver.store.registry.serialized import probe_from, probe_text, signature_from, signature_text
from salver.store.registry.tables import sort_key

specs = st.builds(
    TensorSpec,
    st.text(),
    st.none() | st.sampled_from(sorted(DTYPES)),
    st.none() | st.lists(st.integers(-1, 2**40)).map(tuple),
    st.booleans(),
    st.booleans(),
)
signatures = st.builds(Signature, st.lists(specs).map(tuple), st.lists(specs).map(tuple), st.booleans())
seconds = st.floats(0, allow_infinity=False)
probes = st.builds(
    Probe,
    st.integers(0),
    st.integers(0),
    seconds,
    st.integers(0),
    st.dictionaries(st.integers(1, 4096), seconds),
    st.integers(1),
    st.none() | st.integers(1),
    st.text(),
    st.none() | st.integers(1),
    st.text(),
)
version_names = st.from_regex(r"0{0,3}[0-9]{1,5}|[A-Za-z0-9]{1,5}|[0-9]{60,64}", fullmatch=True)


@given(signatures)
def test_signatures_come_back(signature: Signature) -> None:
    assert signature_from(signature_text(signature)) == signature


@given(probes)
def test_probes_come_back(probe: Probe) -> None:
    assert probe_from(probe_text(probe)) == probe


def test_what_another_release_wrote_is_read() -> None:
    newer = json.loads(probe_text(PROBE)) | {"energy_joules": 7}
    assert probe_from(json.dumps(newer)) == PROBE
    assert probe_from('{"memory_bytes": 1, "peak_memory_bytes": 2, "load_seconds": 3}') == Probe(1, 2, 3)
    text = '{"inputs": [{"name": "x", "datatype": null, "shape": null, "unit": "m"}], "outputs": [], "version": 2}'
    assert signature_from(text) == Signature((TensorSpec("x", None, None),), ())


@given(st.lists(version_names, unique=True))
def test_sort_keys_are_in_the_order_of_versions(names: list[str]) -> None:
    assert sorted(names, key=sort_key) == sorted(names, key=version_order)
    assert len({sort_key(name) for name in names}) == len(names)
