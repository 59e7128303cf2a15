"""Which models and versions a node knows, which of them are loaded, and what requests of a name get."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import monotonic

from salver.cache.known import UNLOADED, Key, KnownModel, KnownVersion, VersionStatus
from salver.cache.loaded_version import LoadedVersion
from salver.cache.offer import Offer
from salver.core.errors import ModelUnavailable, SalverError, UnknownModel
from salver.core.events import Emit, ModelLoadFailed
from salver.core.model import ModelState, version_order
from salver.monitoring.metrics import ModelSnapshot
from salver.monitoring.statistics import ModelStatistics


class Catalogue:
    """The models and versions that a node knows.

    Args:
        emit: is told of what can't be loaded.
        root: a folder that clients aren't told the way to: paths in it are shown from there on.

    Attributes:
        routes: what requests of a model and version ("" for the default one) get, where that is loaded. A model's name
            may be ``NAME@ALIAS``. Only to be read.
    """

    def __init__(self, *, emit: Emit, root: str = "") -> None:
        self.routes: dict[Key, LoadedVersion] = {}
        self._emit = emit
        self._prefix = root.rstrip("/") + "/" if root else ""
        self._models: dict[str, KnownModel] = {}

    def lookup(self, name: str, version: str = "") -> LoadedVersion:
        """The loaded version that a request for ``name`` and ``version`` ("" for the default) gets. It isn't pinned.

        Raises:
            UnknownModel: there is no such model or version.
            ModelUnavailable: there is, and it isn't loaded.
        """
        loaded = self.routes.get((name, version))
        if loaded is None:
            raise self._why_not(name, version)
        return loaded

    def find(self, name: str, version: str = "") -> LoadedVersion | Offer:
        """What a request for ``name`` and ``version`` gets: a loaded version, or what is to be loaded for it.

        Raises:
            UnknownModel: there is no such model or version.
            ModelUnavailable: there is, and it can't be loaded now.
        """
        loaded = self.routes.get((name, version))
        if loaded is not None:
            return loaded
        entry = self._to_load(name, version)
        assert entry.offer is not None
        return entry.offer

    def versions(self, name: str) -> list[str]:
        """The model's versions that requests can have, oldest first."""
        model = self._models.get(name)
        return [] if model is None else model.usable()

    def aliases(self, name: str) -> Mapping[str, str]:
        """The model's aliases, alias -> version."""
        model = self._models.get(name)
        return {} if model is None else model.aliases

    def knows(self, name: str) -> bool:
        """Whether there is such a model, loaded or not."""
        return name in self._models

    def loaded(self) -> list[LoadedVersion]:
        """All loaded versions, by name and version."""
        found = [entry.loaded for model in self._models.values() for entry in model.versions.values() if entry.loaded]
        return sorted(found, key=lambda loaded: (loaded.name, version_order(loaded.version)))

    def statuses(self) -> list[VersionStatus]:
        """All versions that this node knows, by name and version."""
        return [status for name in sorted(self._models) for status in self._models[name].statuses()]

    def statistics(self, name: str, version: str = "") -> list[tuple[str, str, ModelStatistics]]:
        """Names, versions and counters of a version, or ("" for the version) of all that requests can have.

        Raises:
            UnknownModel, ModelUnavailable: there is none.
        """
        self.find(name, version)
        plain, _, alias = name.partition("@")
        model = self._models[plain]
        one = model.version(alias or version)
        known = [model.versions[each] for each in model.usable()] if one is None else [one]
        return [(each.name, each.version, each.statistics or ModelStatistics()) for each in known]

    def snapshot(self) -> Iterator[ModelSnapshot]:
        """The versions as metrics see them."""
        for model in list(self._models.values()):
            for entry in list(model.versions.values()):
                loaded = entry.loaded
                if loaded is None:
                    # Only what should answer and can't: one that loads, or was unloaded, is nothing to be woken for.
                    if entry.state == ModelState.UNAVAILABLE and not entry.unloaded and entry.offer is None:
                        yield ModelSnapshot(model.name, entry.version, False, 0, None)
                else:
                    yield ModelSnapshot(
                        loaded.name,
                        loaded.version,
                        loaded.failure is None,
                        loaded.memory_bytes,
                        loaded.statistics,
                        waiting=loaded.scheduler.waiting,
                        cached_bytes=0 if loaded.responses is None else loaded.responses.bytes,
                        steps=() if loaded.composed is None else loaded.composed.step_statistics(),
                    )
            if model.failure:
                yield ModelSnapshot(model.name, "", False, 0, None)

    def loading(self) -> list[tuple[str, str, int]]:
        """Versions that are being loaded on demand, and how many requests wait for each."""
        return [
            (model.name, entry.version, entry.loading.waiters)
            for model in self._models.values()
            for entry in model.versions.values()
            if entry.loading is not None
        ]

    def known_count(self) -> int:
        """How many versions requests can have, loaded or not."""
        return sum(known.is_usable for model in self._models.values() for known in model.versions.values())

    def set_aliases(self, name: str, aliases: Mapping[str, str]) -> None:
        """Give a model's versions other names, in place of those that there were."""
        model = self._models.get(name)
        if model is None:
            if not aliases:
                return
            model = self._models[name] = KnownModel(name)
        model.aliases = dict(aliases)
        self._route(name)
        self._drop_if_empty(name)

    def mark_failed(self, name: str, version: str, reason: str) -> None:
        """Note that a version can't be loaded, or ("" for the version) the whole model. What serves goes on serving."""
        shown = self.shown(reason)
        model = self._models.setdefault(name, KnownModel(name))
        if version:
            entry = self._known(name, version)
            entry.set(ModelState.READY if entry.loaded is not None else ModelState.UNAVAILABLE, shown)
        elif ready := [entry for entry in model.versions.values() if entry.loaded is not None]:
            for entry in ready:
                entry.set(ModelState.READY, shown)
        else:
            model.failure = shown
        self._emit(ModelLoadFailed(name, version, reason))

    def note(self, name: str, version: str, state: ModelState, reason: str) -> None:
        """Note a version that isn't to be served, and why. One that is loaded goes on serving."""
        known = self._known(name, version)
        if known.loaded is None and known.offer is None:
            known.unloaded = True
            known.set(state, self.shown(reason))

    def clear_failure(self, name: str) -> None:
        """What was noted of the whole model is over."""
        model = self._models.get(name)
        if model is not None:
            model.failure = ""
            for entry in model.versions.values():
                if entry.loaded is not None:
                    entry.set(ModelState.READY)
            self._drop_if_empty(name)

    def forget(self, name: str, version: str) -> None:
        """A version that isn't loaded doesn't exist any more; ("" for the version) the model's failure is over."""
        model = self._models.get(name)
        if model is None:
            return
        if not version:
            model.failure = ""
        entry = model.versions.get(version)
        if entry is not None and entry.loaded is None and entry.loading is None:
            del model.versions[version]
            self._route(name)
        self._drop_if_empty(name)

    def shown(self, reason: str) -> str:
        """A reason as clients are told it."""
        return reason.replace(self._prefix, "") if self._prefix else reason

    def _find(self, name: str, version: str) -> KnownVersion | None:
        model = self._models.get(name)
        return None if model is None else model.versions.get(version)

    def _known(self, name: str, version: str) -> KnownVersion:
        """What is known of a version, from now on at least that there is one."""
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = KnownModel(name)
        known = model.versions.get(version)
        if known is None:
            known = model.versions[version] = KnownVersion(name, version)
        return known

    def _to_load(self, name: str, version: str) -> KnownVersion:
        """The version that a request for one that isn't loaded waits for."""
        plain, at, alias = name.partition("@")
        model = self._models.get(plain)
        known = None
        if model is not None:
            if at and not version:
                known = model.versions.get(model.aliases.get(alias, ""))
            elif not at:
                known = model.default() if not version else model.version(version)
        if known is None or not known.is_usable or (known.offer is None and known.loaded is None):
            raise self._why_not(name, version)
        if known.failed_until > monotonic():
            raise ModelUnavailable(f"model '{name}' is not ready: {_reason(known)}")
        return known

    def _route(self, name: str) -> None:
        """Let requests find the model's loaded versions, under all their names."""
        model = self._models.get(name)
        if model is None:
            return
        for key in model.routed:
            self.routes.pop(key, None)
        model.routed.clear()
        found: list[tuple[Key, KnownVersion | None]] = [
            ((name, version), known) for version, known in model.versions.items()
        ]
        found += [
            ((name, alias), model.versions.get(to))
            for alias, to in model.aliases.items()
            if alias not in model.versions
        ]
        found += [((f"{name}@{alias}", ""), model.versions.get(to)) for alias, to in model.aliases.items()]
        found.append(((name, ""), model.default()))
        for key, known in found:
            if known is not None and known.loaded is not None:
                self.routes[key] = known.loaded
                model.routed.add(key)

    def _drop_if_empty(self, name: str) -> None:
        model = self._models.get(name)
        if model is not None and model.is_empty:
            del self._models[name]

    def _why_not(self, name: str, version: str) -> SalverError:
        plain, at, alias = name.partition("@")
        model = self._models.get(plain)
        if model is None:
            return UnknownModel(f"Request for unknown model: '{name}' is not found")
        if at and alias not in model.aliases:
            aliases = ", ".join(sorted(model.aliases)) or "none"
            return UnknownModel(f"Request for unknown model: '{plain}' has no alias '{alias}'; it has {aliases}")
        if at and version:
            return UnknownModel(f"Request for unknown model: '{name}' has no versions: it is an alias of one")
        wanted = version if version in model.versions else model.aliases.get(alias or version, version)
        statuses = model.statuses()
        if not wanted:
            reasons = "; ".join(map(_reason, statuses))
            return ModelUnavailable(f"model '{name}' is not ready, it has no available versions: {reasons}")
        for status in statuses:
            if status.version == wanted:
                return ModelUnavailable(f"model '{name}' is not ready: {_reason(status)}")
        versions = ", ".join(self.versions(plain)) or "none that is ready"
        return UnknownModel(
            f"Request for unknown model: '{name}' version {wanted} is not found; the model has {versions}"
        )


def _reason(status: VersionStatus | KnownVersion) -> str:
    if not status.version:
        return f"it can't be served ({status.reason})"
    if status.state == ModelState.UNAVAILABLE and status.reason != UNLOADED:
        return f"version {status.version} failed to load ({status.reason})"
    return f"version {status.version} is {status.reason or status.state.lower()}"
