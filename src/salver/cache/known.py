"""What a node knows of models and versions, loaded or not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from salver.cache.loaded_version import LoadedVersion
from salver.cache.offer import Offer
from salver.core.model import ModelState, version_order
from salver.monitoring.statistics import ModelStatistics

Key = tuple[str, str]
"""A model's name and a version."""

UNLOADED = "unloaded"
"""The reason of a version that was unloaded on request."""


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """Where a version stands.

    Attributes:
        state: as the V2 repository index names it. What can be loaded on demand is ready, too.
        reason: why it isn't ready, or why its reload failed; "" where there is nothing to say.
    """

    name: str
    version: str
    state: ModelState
    reason: str = ""


class Loading:
    """A load on demand that is under way, and who waits for it.

    Attributes:
        task: gives the loaded version.
        waiters: requests that wait.
        is_wanted: it goes on also where nobody waits: it was hinted, or has come too far to be broken off.
    """

    __slots__ = ("_line", "is_wanted", "loaded", "task", "waiters")

    task: asyncio.Task[LoadedVersion]

    def __init__(self) -> None:
        self.waiters = 0
        self.is_wanted = False
        self.loaded: LoadedVersion | None = None
        self._line: asyncio.Lock | None = None

    async def enter(self, line: asyncio.Lock) -> None:
        """Become the first in a line, unless it is that already."""
        if self._line is None:
            await line.acquire()
            self._line = line

    def leave_line(self) -> None:
        """Let the next in the line be the first."""
        line, self._line = self._line, None
        if line is not None:
            line.release()

    def hand_over(self, loaded: LoadedVersion) -> None:
        """It is loaded, and each that waits holds it from now on: it can't be evicted before they have woken."""
        loaded.pins += self.waiters
        self.loaded = loaded

    def leave(self) -> bool:
        """One that waited has left without an answer; whether nobody wants the load any more."""
        self.waiters -= 1
        if self.loaded is not None:
            self.loaded.unpin()
        return self.loaded is None and not self.waiters and not self.is_wanted


@dataclass(slots=True, eq=False)
class KnownVersion:
    """A version that a node knows.

    Attributes:
        state, reason: as the index shows them.
        loaded: there while requests can have it at once.
        offer: there where it can be loaded on demand.
        loading: there while it is being loaded on demand.
        unloaded: somebody said that it isn't to be served.
        failed_until: by time.monotonic: a load on demand has failed, and isn't tried again before; 0 where none has.
        statistics: of its requests; they outlive an eviction.
    """

    name: str
    version: str
    state: ModelState = ModelState.UNKNOWN
    reason: str = ""
    loaded: LoadedVersion | None = None
    offer: Offer | None = None
    loading: Loading | None = None
    unloaded: bool = False
    failed_until: float = 0.0
    statistics: ModelStatistics | None = None

    @property
    def is_usable(self) -> bool:
        """Requests can have it, perhaps after a load."""
        return self.loaded is not None or (self.offer is not None and not self.unloaded)

    def set(self, state: ModelState, reason: str = "") -> None:
        """Note where it stands."""
        self.state = state
        self.reason = reason


@dataclass(slots=True, eq=False)
class KnownModel:
    """A model that a node knows.

    Attributes:
        versions: by name.
        aliases: alias -> version.
        failure: why none of its versions can be served; "" where they can.
        routed: names, other than versions' own, under which requests find its loaded versions now.
    """

    name: str
    versions: dict[str, KnownVersion] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    failure: str = ""
    routed: set[tuple[str, str]] = field(default_factory=set)

    @property
    def is_empty(self) -> bool:
        """Nothing is known of it any more."""
        return not self.versions and not self.failure and not self.aliases

    def usable(self) -> list[str]:
        """Versions that requests can have, oldest first."""
        return sorted((version for version, known in self.versions.items() if known.is_usable), key=version_order)

    def version(self, name: str) -> KnownVersion | None:
        """The version of a name or an alias; a version's own name comes first."""
        return self.versions.get(name) or self.versions.get(self.aliases.get(name, ""))

    def default(self) -> KnownVersion | None:
        """The version of requests that name none: the newest, if possible one whose last load didn't fail."""
        usable = [self.versions[version] for version in self.usable()]
        sound = [known for known in usable if known.loaded is not None or not known.failed_until]
        return next(reversed(sound or usable), None)

    def statuses(self) -> list[VersionStatus]:
        """Where its versions stand, oldest first."""
        known = [self.versions[version] for version in sorted(self.versions, key=version_order)]
        statuses = [VersionStatus(self.name, each.version, each.state, each.reason) for each in known]
        if self.failure:
            statuses.insert(0, VersionStatus(self.name, "", ModelState.UNAVAILABLE, self.failure))
        return statuses
