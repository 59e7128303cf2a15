"""The registry does what a few dictionaries do, in whatever order it is asked."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from registered_versions import DIGEST, OTHER_DIGEST, PROBE, SIGNATURE, version

from salver.core.errors import Conflict, ModelInUse, ModelUnavailable, SalverError, UnknownModel, VersionExists
from salver.core.model import version_order
from salver.core.registry import VersionState
from salver.store.registry.registry import Registry

PENDING, READY, FAILED, DELETED = VersionState

names = st.sampled_from(["iris", "Iris", "a-b"])
numbers = st.sampled_from(["1", "2", "02", "beta"])
aliases = st.sampled_from(["prod", "test"])
digests = st.sampled_from([DIGEST, OTHER_DIGEST])


@dataclass
class Known:
    digest: str
    state: VersionState = PENDING


@dataclass
class Model:
    versions: dict[str, Known] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    @property
    def live(self) -> dict[str, Known]:
        return {number: known for number, known in self.versions.items() if known.state is not DELETED}


class RegistryMachine(RuleBasedStateMachine):
    """Each step is made in both; an error has to be expected."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.registry = Registry.open(f"sqlite:///{self.folder}/registry.db")
        self.models: dict[str, Model] = {}
        self.followed: dict[tuple[str, str], VersionState] = {}
        self.followed_aliases: dict[str, dict[str, str]] = {}
        self.revision = 0

    def teardown(self) -> None:
        self.registry.close()
        shutil.rmtree(self.folder)

    @rule(name=names, number=st.just("") | numbers, digest=digests)
    def register(self, name: str, number: str, digest: str) -> None:
        there = self.models.get(name, Model()).versions
        expected = number or str(max([int(each) for each in there if each.isdecimal()], default=0) + 1)
        known = there.get(expected)
        refused = known is not None and (known.digest != digest or known.state is DELETED)
        made = self.expecting(
            lambda: self.registry.register(version(name, number, digest), actor=""), VersionExists if refused else None
        )
        if made is not None:
            assert made.version == expected
            if known is None or known.state is FAILED:
                self.models.setdefault(name, Model()).versions[expected] = Known(digest)

    @rule(name=names, number=numbers, went_well=st.booleans())
    def settle(self, name: str, number: str, went_well: bool) -> None:
        known = self.models.get(name, Model()).live.get(number)
        state = READY if went_well else FAILED
        if went_well:
            made = lambda: self.registry.set_ready(  # noqa: E731
                name, number, runtime="onnx", signature=SIGNATURE, probe=PROBE, actor=""
            )
        else:
            made = lambda: self.registry.set_failed(name, number, reason="bad", actor="")  # noqa: E731
        if known is None:
            self.expecting(made, UnknownModel)
        elif known.state in (PENDING, state):
            assert self.expecting(made, None).state is state
            known.state = state
        else:
            self.expecting(made, Conflict)

    @rule(name=names, alias=aliases, number=numbers)
    def set_alias(self, name: str, alias: str, number: str) -> None:
        model = self.models.get(name, Model())
        known = model.live.get(number)
        wrong = UnknownModel if known is None else None if known.state is READY else Conflict
        self.expecting(lambda: self.registry.set_alias(name, alias, number, actor=""), wrong)
        if wrong is None:
            model.aliases[alias] = number

    @rule(name=names, alias=aliases)
    def delete_alias(self, name: str, alias: str) -> None:
        known = self.models.get(name, Model()).aliases.pop(alias, None)
        wrong = None if known else UnknownModel
        self.expecting(lambda: self.registry.delete_alias(name, alias, actor=""), wrong)

    @rule(name=names, number=numbers)
    def delete(self, name: str, number: str) -> None:
        model = self.models.get(name, Model())
        known = model.live.get(number)
        wrong = UnknownModel if known is None else ModelInUse if number in model.aliases.values() else None
        self.expecting(lambda: self.registry.delete(name, number, actor=""), wrong)
        if wrong is None:
            known.state = DELETED

    @rule(name=names)
    def delete_model(self, name: str) -> None:
        model = self.models.get(name, Model())
        self.expecting(lambda: self.registry.delete_model(name, actor=""), None if model.live else UnknownModel)
        model.aliases.clear()
        for known in model.versions.values():
            known.state = DELETED

    @rule(name=names, reference=st.just("") | numbers | aliases.map("@{}".format))
    def resolve(self, name: str, reference: str) -> None:
        model = self.models.get(name, Model())
        if not model.live:
            expected = None
        elif reference:
            expected = model.aliases.get(reference[1:]) if reference.startswith("@") else reference
            expected = expected if expected in model.live else None
        else:
            ready = [number for number, known in model.versions.items() if known.state is READY]
            expected = max(ready, key=version_order, default=None)
        none_ready = bool(model.live) and not reference
        wrong = (ModelUnavailable if none_ready else UnknownModel) if expected is None else None
        found = self.expecting(lambda: self.registry.resolve(name, reference), wrong)
        assert found is None or found.version == expected

    @rule()
    def open_again(self) -> None:
        self.registry.close()
        self.registry = Registry.open(f"sqlite:///{self.folder}/registry.db")

    @rule(limit=st.integers(1, 5))
    def follow(self, limit: int) -> None:
        while (page := self.registry.changes(self.revision, limit=limit)).revision != self.revision:
            self.revision = page.revision
            self.followed |= {(each.name, each.version): each.state for each in page.versions}
            self.followed_aliases |= {name: dict(pointing) for name, pointing in page.aliases.items()}
        assert self.followed == {
            (name, number): known.state
            for name, model in self.models.items()
            for number, known in model.versions.items()
        }
        assert {name: pointing for name, pointing in self.followed_aliases.items() if pointing} == {
            name: model.aliases for name, model in self.models.items() if model.aliases
        }

    @invariant()
    def both_are_the_same(self) -> None:
        live = {name: model for name, model in self.models.items() if model.live}
        found = self.registry.models()
        assert [model.name for model in found] == sorted(live)
        for model in found:
            known = live[model.name]
            assert [each.version for each in model.versions] == sorted(known.live, key=version_order)
            assert {each.version: Known(each.digest, each.state) for each in model.versions} == known.live
            assert model.aliases == known.aliases
        digests = {known.digest for model in live.values() for known in model.live.values()}
        assert self.registry.live_digests() == digests
        pending = {
            (name, number)
            for name, model in live.items()
            for number, known in model.live.items()
            if known.state is PENDING
        }
        assert {(each.name, each.version) for each in self.registry.pending()} == pending

    @staticmethod
    def expecting(call, wrong: type[SalverError] | None):  # type: ignore[no-untyped-def]
        if wrong is None:
            return call()
        with pytest.raises(wrong) as caught:
            call()
        assert caught.type is wrong
        return None


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(max_examples=40, stateful_step_count=25)
