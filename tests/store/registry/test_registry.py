"""What the registry answers and refuses, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from registered_versions import DIGEST, OTHER_DIGEST, PROBE, SIGNATURE, ready, set_ready, version

from salver.core.errors import (
    Conflict,
    InvalidRequest,
    ModelInUse,
    ModelUnavailable,
    SalverError,
    UnknownModel,
    VersionExists,
)
from salver.core.registry import ModelVersion, Node, VersionMetadata, VersionState
from salver.store.registry import following
from salver.store.registry.registry import Registry

METADATA = VersionMetadata(
    framework="scikit-learn",
    framework_version="1.7.2",
    algorithm="random forest",
    run_id="0b51",
    owner="the flower team",
    tenant="botany",
    description="Tells irises apart: 花 \N{ROSE} 'quoted' \"twice\" \\ % _ :name",
    tags={"stage": "spring", "größe": "2 m: tall"},
    properties={"accuracy": 0.97, "nested": [{"deep": None}, True, 2**70, "\0", "\ud800"], "": ""},
)


def test_a_version_comes_back_as_it_was_registered(registry: Registry) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    config = {"batching": {"max_batch_size": 8}, "threads": None}
    given = ModelVersion("iris", "7", DIGEST, 2**40, config=config, metadata=METADATA)
    made = registry.register(given, actor="ann")
    assert made == dataclasses.replace(
        given, created_at=made.created_at, updated_at=made.updated_at, revision=made.revision
    )
    assert made.created_at is not None
    assert made.created_at.tzinfo is UTC
    assert before < made.created_at == made.updated_at < datetime.now(UTC) + timedelta(seconds=2)
    assert registry.get("iris", "7") == made

    probed = registry.set_ready("iris", "7", runtime="sklearn", signature=SIGNATURE, probe=PROBE, actor="probe")
    assert probed.state is VersionState.READY
    assert (probed.runtime, probed.signature, probed.probe) == ("sklearn", SIGNATURE, PROBE)
    assert probed.metadata == METADATA
    assert probed.revision > made.revision
    assert registry.get("iris", "7") == probed
    assert registry.model("iris").versions == (probed,)


def test_versions_without_a_number_get_the_next_one(registry: Registry) -> None:
    def number(given: str = "") -> str:
        return registry.register(version(number=given), actor="ann").version

    assert [number(), number()] == ["1", "2"]
    assert [number("9"), number(), number("0100"), number("beta"), number()] == ["9", "10", "0100", "beta", "101"]
    registry.delete("iris", "101", actor="ann")
    assert number() == "102"
    assert number("9" * 64) == "9" * 64
    with pytest.raises(InvalidRequest, match="can't be a version"):
        number()
    assert registry.register(version("other"), actor="ann").version == "1"


def test_registering_again_changes_nothing(registry: Registry) -> None:
    made = registry.register(version(number="1", owner="ann"), actor="ann")
    assert registry.register(version(number="1", owner="bob"), actor="bob") == made
    probed = set_ready(registry, "iris", "1")
    assert registry.register(version(number="1"), actor="bob") == probed
    assert registry.changes(0).revision == probed.revision
    assert len(registry.audit()) == 2


def test_versions_never_change(registry: Registry) -> None:
    registry.register(version(number="1"), actor="ann")
    with pytest.raises(VersionExists, match="versions never change"):
        registry.register(version(number="1", digest=OTHER_DIGEST), actor="ann")
    registry.delete("iris", "1", actor="ann")
    with pytest.raises(VersionExists, match="was deleted, and its name stays taken"):
        registry.register(version(number="1"), actor="ann")


def test_a_failed_version_is_probed_anew_when_it_is_registered_again(registry: Registry) -> None:
    registry.register(version(number="1", tags={"try": "1"}), actor="ann")
    failed = registry.set_failed("iris", "1", reason="no such\0operator " + "x" * 10_000, actor="probe")
    assert failed.state is VersionState.FAILED
    assert failed.reason.startswith("no such�operator xx")
    assert len(failed.reason) == 8192
    assert registry.set_failed("iris", "1", reason="another", actor="probe") == failed
    assert registry.pending() == []
    again = registry.register(version(number="1", tags={"try": "2"}), actor="ann")
    assert (again.state, again.reason, again.metadata.tags) == (VersionState.PENDING, "", {"try": "2"})
    assert registry.pending() == [again]
    assert [model.name for model in registry.models(tag=("try", "2"))] == ["iris"]
    assert registry.models(tag=("try", "1")) == []


def test_only_pending_versions_are_settled(registry: Registry) -> None:
    registry.register(version(number="1"), actor="ann")
    probed = set_ready(registry, "iris", "1")
    assert set_ready(registry, "iris", "1") == probed
    with pytest.raises(Conflict, match="is READY already"):
        registry.set_failed("iris", "1", reason="late", actor="probe")
    registry.register(version(number="2"), actor="ann")
    registry.set_failed("iris", "2", reason="bad", actor="probe")
    with pytest.raises(Conflict, match="is FAILED already"):
        set_ready(registry, "iris", "2")
    registry.delete("iris", "2", actor="ann")
    with pytest.raises(UnknownModel, match="was deleted"):
        set_ready(registry, "iris", "2")


def test_one_node_probes_a_version(registry: Registry) -> None:
    registry.register(version(number="1"), actor="ann")
    assert registry.claim("iris", "1", node="a", seconds=60)
    assert not registry.claim("iris", "1", node="b", seconds=60)
    assert registry.pending() == []
    assert registry.claim("iris", "1", node="a", seconds=0), "claimed again, it is the end of the claim that changes"
    assert [each.version for each in registry.pending()] == ["1"]
    assert registry.claim("iris", "1", node="b", seconds=60)
    assert not registry.claim("iris", "1", node="a", seconds=60)
    set_ready(registry, "iris", "1")
    assert not registry.claim("iris", "1", node="b", seconds=60)
    assert not registry.claim("iris", "2", node="b", seconds=60)
    assert not registry.claim("ir\0is", "2", node="b", seconds=60)


def test_a_claim_ends_with_the_probe(registry: Registry) -> None:
    registry.register(version(number="1"), actor="ann")
    assert registry.claim("iris", "1", node="a", seconds=60)
    registry.set_failed("iris", "1", reason="bad", actor="a")
    registry.register(version(number="1"), actor="ann")
    assert registry.claim("iris", "1", node="b", seconds=60)


def test_references(registry: Registry) -> None:
    registry.register(version(number="1"), actor="ann")
    with pytest.raises(ModelUnavailable, match="no version of model 'iris' is ready"):
        registry.resolve("iris", "")
    for number in ("2", "10", "9", "beta", "11"):
        ready(registry, number=number)
    registry.register(version(number="12"), actor="ann")
    registry.delete("iris", "11", actor="ann")
    registry.set_alias("iris", "prod", "9", actor="ann")
    assert registry.resolve("iris", "").version == "10"
    assert registry.resolve("iris", "@prod").version == "9"
    assert registry.resolve("iris", "12").state is VersionState.PENDING
    for name, reference in [("iris", "11"), ("iris", "13"), ("iris", "@test"), ("rose", ""), ("rose", "@prod")]:
        with pytest.raises(UnknownModel):
            registry.resolve(name, reference)


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a\0b", "\ud800", "x" * 129, "rose"])
@pytest.mark.parametrize("number", ["1", "", "a/b", "\0", "x" * 65])
def test_names_that_nothing_has_are_unknown(sqlite: Registry, name: str, number: str) -> None:
    registry = sqlite
    for ask in (
        lambda: registry.get(name, number or "1"),
        lambda: registry.model(name),
        lambda: registry.resolve(name, number),
        lambda: registry.resolve(name, "@" + number),
        lambda: registry.set_alias(name, "prod", number or "1", actor=""),
        lambda: registry.delete_alias(name, number, actor=""),
        lambda: registry.delete(name, number or "1", actor=""),
        lambda: registry.delete_model(name, actor=""),
        lambda: registry.set_failed(name, number or "1", reason="", actor=""),
    ):
        with pytest.raises(UnknownModel):
            ask()
    assert registry.audit(name or "x") == []
    assert registry.changes(0).revision == 0


def test_texts_that_no_database_keeps_are_asked_for_without_harm(registry: Registry) -> None:
    registry.register(version(number="1"), actor="a\0\ud800" + "x" * 1000)
    entry = registry.audit("iris")[0]
    assert entry.actor.startswith("a�?x")
    assert len(entry.actor) == 256
    for text in ("\0", "\ud800", "ä"):
        assert registry.models(prefix=text) == []
        assert registry.models(after=text) == []
        assert registry.models(tag=(text, text)) == []
        assert registry.audit("iris" + text) == []
        assert not registry.claim("iris", text, node="a", seconds=1)
        with pytest.raises(UnknownModel):
            registry.delete_alias("iris", text, actor="")
        with pytest.raises(UnknownModel):
            registry.resolve("iris", "@" + text)
        with pytest.raises(InvalidRequest):
            registry.set_alias("iris", text, "1", actor="")


def test_aliases(registry: Registry) -> None:
    first, second = ready(registry), ready(registry)
    registry.register(version(number="3"), actor="ann")
    registry.set_alias("iris", "prod", first, actor="ann")
    registry.set_alias("iris", "prod", first, actor="ann")
    registry.set_alias("iris", "Test", second, actor="ann")
    assert registry.model("iris").aliases == {"Test": "2", "prod": "1"}
    with pytest.raises(Conflict, match="is PENDING"):
        registry.set_alias("iris", "prod", "3", actor="ann")
    with pytest.raises(ModelInUse, match="has the alias 'prod'"):
        registry.delete("iris", first, actor="ann")
    registry.set_alias("iris", "prod", second, actor="bob")
    registry.delete("iris", first, actor="ann")
    registry.delete_alias("iris", "Test", actor="ann")
    with pytest.raises(UnknownModel, match="has no alias 'Test'"):
        registry.delete_alias("iris", "Test", actor="ann")
    assert registry.model("iris").aliases == {"prod": "2"}
    told = [(entry.actor, entry.action, entry.version, entry.details) for entry in reversed(registry.audit("iris"))]
    assert told[5:] == [
        ("ann", "set_alias", "1", {"alias": "prod", "before": None}),
        ("ann", "set_alias", "2", {"alias": "Test", "before": None}),
        ("bob", "set_alias", "2", {"alias": "prod", "before": "1"}),
        ("ann", "delete", "1", {}),
        ("ann", "delete_alias", "2", {"alias": "Test"}),
    ]


def test_a_deleted_model_is_gone_and_its_versions_stay_taken(registry: Registry) -> None:
    for _ in range(3):
        ready(registry, tags={"stage": "spring"})
    registry.set_alias("iris", "prod", "1", actor="ann")
    seen = registry.changes(0).revision
    registry.delete("iris", "2", actor="ann")
    registry.delete_model("iris", actor="ann")
    with pytest.raises(UnknownModel):
        registry.model("iris")
    with pytest.raises(UnknownModel):
        registry.delete_model("iris", actor="ann")
    assert registry.models() == registry.models(tag=("stage", "spring")) == []
    assert registry.live_digests() == set()
    changes = registry.changes(seen)
    assert {each.version: each.state for each in changes.versions} == dict.fromkeys("123", VersionState.DELETED)
    assert changes.aliases == {"iris": {}}
    assert registry.audit()[0].details == {"versions": 2}

    assert registry.register(version(), actor="bob").version == "4"
    assert [each.version for each in registry.model("iris").versions] == ["4"]


def test_models_by_name_prefix_and_tag(registry: Registry) -> None:
    names = ["Zeta", "_x", "alpha", "alpha-2", "alpha.1", "alpha1", "alpha_3", "beta"]
    for index, name in enumerate(reversed(names)):
        ready(registry, name, tags={"parity": "even" if index % 2 else "odd", "a": "1"})
    assert [model.name for model in registry.models()] == sorted(names)

    def pages(limit: int, **wanted: str) -> list[str]:
        found: list[str] = []
        while page := registry.models(after=found[-1] if found else "", limit=limit, **wanted):  # type: ignore[arg-type]
            assert len(page) <= limit
            found += [model.name for model in page]
        return found

    assert pages(3) == sorted(names)
    assert pages(2, prefix="alpha") == sorted(name for name in names if name.startswith("alpha"))
    assert pages(1, prefix="alpha_") == ["alpha_3"]
    assert pages(1, prefix="%") == []
    assert [model.name for model in registry.models(tag=("parity", "odd"))] == sorted(names[1::2])
    assert registry.models(tag=("parity", "neither")) == []
    assert [model.name for model in registry.models(prefix="b", tag=("a", "1"))] == ["beta"]
    for limit in (0, -1, 1001, True):
        with pytest.raises(InvalidRequest, match="limit"):
            registry.models(limit=limit)


def test_a_model_says_what_its_newest_version_that_says_it_says(registry: Registry) -> None:
    registry.register(version(owner="ann", description="first"), actor="ann")
    made = registry.register(version(owner="bob"), actor="ann")
    registry.register(version(number="beta", owner="eve"), actor="ann")
    model = registry.model("iris")
    assert (model.owner, model.description) == ("bob", "first")
    assert [each.version for each in model.versions] == ["beta", "1", "2"]
    assert model.created_at == model.versions[1].created_at
    registry.delete("iris", made.version, actor="ann")
    assert registry.model("iris").owner == "ann"
    assert registry.models()[0] == registry.model("iris")


def test_lists_leave_out_what_may_be_large(registry: Registry) -> None:
    given = dataclasses.replace(version(owner="ann", properties={"a": 1}), config={"threads": 2})
    made = registry.register(given, actor="ann")
    probed = set_ready(registry, "iris", "1")
    assert probed.metadata == made.metadata == given.metadata
    brief = dataclasses.replace(probed, config={}, metadata=VersionMetadata(owner="ann"))
    assert registry.models()[0].versions == (brief,)
    assert registry.model("iris").versions == (probed,)


def test_changes_come_in_pages_in_the_order_of_commits(registry: Registry) -> None:
    for number in range(1, 8):
        ready(registry, f"m{number}")
    for number in (3, 1):
        registry.set_alias(f"m{number}", "prod", "1", actor="ann")
    registry.delete_model("m2", actor="ann")
    everything = registry.changes(0)
    assert [each.name for each in everything.versions] == ["m1", "m3", "m4", "m5", "m6", "m7", "m2"]
    assert everything.aliases == {"m1": {"prod": "1"}, "m3": {"prod": "1"}}
    assert registry.changes(everything.revision) == dataclasses.replace(everything, versions=(), aliases={})

    for limit in (1, 2, 3, 9):
        since, versions, aliases = 0, [], {}
        while (page := registry.changes(since, limit=limit)).revision != since:
            assert len(page.versions) + len(page.aliases) <= limit
            since = page.revision
            versions += page.versions
            aliases |= page.aliases
        assert (tuple(versions), aliases, since) == (everything.versions, everything.aliases, everything.revision)
    assert registry.changes(10**9) == everything, "a backup was put back"


def test_large_changes_come_in_small_pages(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MAX_BYTES", 300)
    for size in (10, 200, 10, 1000, 1000, 10, 10):
        registry.register(version(properties={"x": "y" * size}), actor="ann")
    pages, since = [], 0
    while (page := registry.changes(since)).revision != since:
        since = page.revision
        pages.append("".join(each.version for each in page.versions))
    assert pages == ["1234", "5", "67"]


def test_the_audit_trail_comes_in_pages(registry: Registry) -> None:
    for name in ("a", "b", "a"):
        registry.register(version(name), actor="ann")
    newest = registry.audit(limit=2)
    assert [(entry.name, entry.version) for entry in newest] == [("a", "2"), ("b", "1")]
    older = registry.audit(limit=2, before=newest[-1].revision)
    assert [(entry.name, entry.version, entry.action) for entry in older] == [("a", "1", "register")]
    assert registry.audit("b") == [newest[1]]
    assert newest[0].at >= older[0].at
    assert newest[0].details == {"digest": DIGEST, "size": 12}
    with pytest.raises(InvalidRequest, match="limit"):
        registry.audit(limit=0)


def test_every_action_of_the_audit_trail_is_documented(sqlite: Registry) -> None:
    registry = sqlite
    registry.register(version(number="1"), actor="ann")
    registry.set_failed("iris", "1", reason="bad", actor="ann")
    registry.register(version(number="1"), actor="ann")
    for _ in range(2):
        number = ready(registry)
        registry.set_alias("iris", "prod", number, actor="ann")
    registry.delete("iris", "2", actor="ann")
    registry.delete_alias("iris", "prod", actor="ann")
    registry.delete_model("iris", actor="ann")
    document = (Path(__file__).parents[3] / "docs" / "registry.md").read_text(encoding="utf-8")
    table = document.partition("## Audit trail")[2].partition("##")[0]
    assert {entry.action for entry in registry.audit()} == set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))


def test_live_digests_are_those_that_a_version_needs(registry: Registry) -> None:
    registry.register(version(), actor="ann")
    registry.register(version(), actor="ann")
    registry.register(version(digest=OTHER_DIGEST), actor="ann")
    registry.set_failed("iris", "3", reason="bad", actor="probe")
    assert registry.live_digests() == {DIGEST, OTHER_DIGEST}
    registry.delete("iris", "1", actor="ann")
    assert registry.live_digests() == {DIGEST, OTHER_DIGEST}
    registry.delete("iris", "2", actor="ann")
    assert registry.live_digests() == {OTHER_DIGEST}


def test_nodes_tell_of_themselves(registry: Registry) -> None:
    a = Node("a", "http://10.0.0.1:8000", 2**40, 2**39, {"iris/1": 0.5}, draining=True)
    registry.beat(Node("b", "http://10.0.0.2:8000"))
    registry.beat(Node("a", "http://10.0.0.1:8000"))
    registry.beat(a)
    known = registry.nodes(within=60)
    assert [node.node_id for node in known] == ["a", "b"]
    assert dataclasses.replace(known[0], age_seconds=0.0) == a
    assert all(0 <= node.age_seconds < 60 for node in known)
    registry.forget_node("a")
    registry.forget_node("a")
    assert [node.node_id for node in registry.nodes(within=60)] == ["b"]
    assert registry.nodes(within=-1) == []
    assert registry.changes(0).revision == 0


BAD = [
    (ModelVersion("a/b", "1", DIGEST, 1), "can't be a model name"),
    (ModelVersion("stats", "1", DIGEST, 1), "can't be a model name"),
    (ModelVersion("iris", "1.0", DIGEST, 1), "can't be a version"),
    (ModelVersion("iris", "1", DIGEST.upper(), 1), "SHA-256"),
    (ModelVersion("iris", "1", DIGEST, -1), "number of bytes"),
    (ModelVersion("iris", "1", DIGEST, 2**63), "number of bytes"),
    (ModelVersion("iris", "1", DIGEST, 1, config={"x": float("nan")}), "config: expected JSON"),
    (ModelVersion("iris", "1", DIGEST, 1, config=[]), "config: expected a JSON object, got list"),
    (version(owner="x" * 257), "owner: 257 characters; 256 are allowed"),
    (version(owner="a\0b"), "owner: a NUL"),
    (version(description="\udcff"), "description: a NUL or half of a surrogate"),
    (version(description="x" * 4097), "4096 are allowed"),
    (version(run_id=7), "run_id: expected a text, got int"),
    (version(tags={str(number): "" for number in range(65)}), "65 tags; 64 are allowed"),
    (version(tags={"a:b": "c"}), "can't be a tag"),
    (version(tags={"": "c"}), "can't be a tag"),
    (version(tags={"a": "x" * 257}), "tag 'a': 257 characters"),
    (version(tags={"a": 1}), "tag 'a': expected a text, got int"),
    (version(tags=["a"]), "tags: expected an object"),
    (version(properties={"x": "y" * 262_144}), "bytes of JSON; 262144 are allowed"),
    (version(properties={"x": object()}), "properties: expected JSON"),
    (version(properties={1: "x"}), "objects with texts as keys"),
    (version(properties={"x": (1, 2)}), "properties: expected JSON"),
    (version(properties={"x": 10**5000}), "properties: expected JSON"),
]


@pytest.mark.parametrize(("given", "problem"), BAD, ids=[problem for _, problem in BAD])
def test_what_cannot_be_kept_is_refused(sqlite: Registry, given: ModelVersion, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(problem)):
        sqlite.register(given, actor="ann")
    assert sqlite.changes(0).revision == 0


@pytest.mark.parametrize("depth", [101, 900, 100_000])
def test_json_that_is_too_deep_is_refused(sqlite: Registry, depth: int) -> None:
    deep: dict[str, object] = {}
    for _ in range(depth):
        deep = {"x": deep}
    with pytest.raises(InvalidRequest, match="properties: expected JSON"):
        sqlite.register(version(properties=deep), actor="ann")
    while deep:  # freed level by level: Python's own way down is as deep
        deep = deep.pop("x")  # type: ignore[assignment]


def test_the_largest_metadata_is_kept(registry: Registry) -> None:
    largest = VersionMetadata(
        owner="ö" * 256,
        description="\N{ROSE}" * 4096,
        tags={("\N{ROSE}" * 126 + f"{number:02}"): "\N{ROSE}" * 256 for number in range(32)},
        properties={"x": "y" * (256 * 1024 - 8)},
    )
    made = registry.register(dataclasses.replace(version(), metadata=largest), actor="ann")
    assert made.metadata == largest
    tag = next(iter(largest.tags.items()))
    assert [model.name for model in registry.models(tag=tag)] == ["iris"]


def test_a_change_that_is_refused_leaves_nothing(registry: Registry) -> None:
    ready(registry)
    registry.set_alias("iris", "prod", "1", actor="ann")
    before = (registry.changes(0), registry.audit())
    for wrong in (
        lambda: registry.delete("iris", "1", actor=""),
        lambda: registry.register(version(number="1", digest=OTHER_DIGEST), actor=""),
        lambda: registry.set_failed("iris", "1", reason="", actor=""),
        lambda: registry.set_alias("iris", "prod", "2", actor=""),
    ):
        with pytest.raises(SalverError):
            wrong()
    assert (registry.changes(0), registry.audit()) == before
