"""Which loaded versions go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from random import Random
from time import perf_counter_ns

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.cache import eviction
from salver.cache.eviction import EvictionOrder, frequency_after, rank, value
from salver.cache.usage import Usage

DAY_NS = 24 * 3600 * 10**9


class Memory:
    """Versions within a budget; every step takes a millisecond of a clock of its own."""

    def __init__(self, budget: int, policy: str = "cost") -> None:
        self.now_ns = 0
        self.order = EvictionOrder("lru" if policy == "lru" else "cost", now=lambda: self.now_ns)
        self.free = budget
        self.loaded: dict[str, Usage] = {}
        self.loads = 0
        self.seconds = 0.0

    def load(self, name: str, size: int = 1, load_seconds: float = 1.0, *, pinned: bool = False) -> Usage:
        if size > self.free:
            victims = self.order.victims(size - self.free, may_go=lambda _: True)
            assert victims is not None
            for victim in victims:
                self.order.remove(victim, evicted=True)
                del self.loaded[victim.key[0]]
                self.free += victim.size
        usage = self.loaded[name] = Usage((name, "1"), size, load_seconds, pinned=pinned)
        self.order.add(usage)
        self.free -= size
        self.loads += 1
        self.seconds += load_seconds
        return usage

    def request(self, name: str, size: int = 1, load_seconds: float = 1.0) -> None:
        self.now_ns += 1_000_000
        usage = self.loaded.get(name) or self.load(name, size, load_seconds)
        usage.uses += 1
        usage.last_used_ns = self.now_ns


def first(order: EvictionOrder, need: int = 1, may_go: Callable[[Usage], bool] = lambda _: True) -> list[str] | None:
    victims = order.victims(need, may_go=may_go)
    return None if victims is None else [usage.key[0] for usage in victims]


def zipf(count: int, models: int, seed: int = 1) -> list[str]:
    weights = [1 / number for number in range(1, models + 1)]
    return [f"m{index}" for index in Random(seed).choices(range(models), weights, k=count)]


# Pure functions


def test_what_is_used_often_small_or_slow_to_load_is_worth_more() -> None:
    assert value(2.0, 1.0, 100) == 2 * value(1.0, 1.0, 100)
    assert value(1.0, 3.0, 100) == pytest.approx(3 * value(1.0, 1.0, 100))
    assert value(1.0, 1.0, 50) == 2 * value(1.0, 1.0, 100)
    assert value(1.0, 0.0, 0) > 0


def test_uses_count_once_for_each_look_that_is_due() -> None:
    assert frequency_after(1.0, 1, 0.5) == pytest.approx(eviction.decayed(1.0, 0.5) + 1.0)
    assert frequency_after(1.0, 1000, 0.0) == 1.0
    assert frequency_after(0.0, 1000, 0.1) == pytest.approx(1.0, rel=0.02)
    # However long, and however much it was used, it doesn't count more than what is remembered of looks.
    most = eviction.LOOKS_PER_TURNOVER * eviction.MEMORY_TURNOVERS
    assert frequency_after(most, 10**9, 1000.0) == pytest.approx(most)


@given(st.floats(1e-6, 40), st.integers(0, 1000), st.floats(0, 100), st.floats(0, 1000))
def test_use_never_lowers_a_rank(frequency: float, uses: int, turnovers: float, clock: float) -> None:
    before = rank(value(frequency, 1.0, 100), clock)
    after = rank(value(frequency_after(frequency, uses, turnovers), 1.0, 100), clock + turnovers)
    assert after >= before - 1e-9


# The order


def test_cost_weighs_size_and_load_time() -> None:
    memory = Memory(10_000)
    for name, size, seconds in (("large", 1000, 1.0), ("slow", 1000, 60.0), ("small", 10, 0.5)):
        memory.request(name, size, seconds)
    for number in range(40):  # the three are not in use any more
        memory.request(f"other{number}", 10, 60.0)
    assert first(memory.order) == ["large"]
    assert first(memory.order, 1005) == ["large", "small"]
    assert first(memory.order, 1011) == ["large", "slow"]


def test_none_of_the_victims_is_superfluous() -> None:
    memory = Memory(10_000)
    memory.request("small", 10, 0.001)
    memory.request("large", 1000, 1.0)
    for number in range(40):
        memory.request(f"other{number}", 10, 60.0)
    assert first(memory.order, 10) == ["small"]
    assert first(memory.order, 500) == ["large"]


def test_what_is_pinned_or_may_not_go_stays() -> None:
    memory = Memory(4, "lru")
    pinned = memory.load("pinned", pinned=True)
    for name in "abc":
        memory.request(name)
    asked: list[str] = []

    def may_go(usage: Usage) -> bool:
        asked.append(usage.key[0])
        return usage.key[0] != "a"

    assert first(memory.order, 1, may_go) == ["b"]
    assert first(memory.order, 2, may_go) == ["b", "c"]
    assert first(memory.order, 3, may_go) is None
    assert "pinned" not in asked
    pinned.pinned = False
    assert first(memory.order) == ["pinned"]


def test_what_may_go_raises_costs_nobody_the_place() -> None:
    memory = Memory(4)
    memory.request("a")
    with pytest.raises(ZeroDivisionError):
        memory.order.victims(1, may_go=lambda _: bool(1 // 0))
    assert first(memory.order) == ["a"]


def test_a_tenant_pays_with_its_own_versions() -> None:
    order = EvictionOrder(now=lambda: 0)
    for number in range(6):
        order.add(Usage((f"m{number}", "1"), 10, 1.0, tenant="odd" if number % 2 else ""))
    victims = order.victims(25, may_go=lambda _: True, tenant="odd")
    assert victims is not None
    assert sorted(usage.key[0] for usage in victims) == ["m1", "m3", "m5"]
    assert order.victims(31, may_go=lambda _: True, tenant="odd") is None
    assert order.victims(1, may_go=lambda _: True, tenant="nobody") is None
    for usage in victims:
        order.remove(usage, evicted=True)
    assert order.victims(1, may_go=lambda _: True, tenant="odd") is None
    assert order.victims(30, may_go=lambda _: True) is not None


def test_a_corrected_size_counts() -> None:
    order = EvictionOrder(now=lambda: 0)
    usages = [Usage((name, "1"), 10, 1.0) for name in "abc"]
    for usage in usages:
        order.add(usage)
    usages[2].size = 10_000
    order.update(usages[2])
    assert order.ranking()[0][0] is usages[2]
    usages[2].size = 1
    order.update(usages[2])
    assert order.ranking()[-1][0] is usages[2]


def test_bursts_dont_outweigh_what_is_used_again_and_again() -> None:
    memory = Memory(100)
    for turn in range(10):
        memory.request("steady")
        for _ in range(1000 if turn == 0 else 0):
            memory.request("burst")
        for number in range(40):
            memory.request(f"once{turn}/{number}")
    worth = {usage.key[0]: value for usage, value in memory.order.ranking()}
    assert "steady" in worth
    assert worth["steady"] > 2 * worth.get("burst", 0.0)


def test_a_version_in_use_stays_though_it_is_worth_least() -> None:
    memory = Memory(50)
    for _ in range(20):
        for number in range(50):
            memory.request(f"m{number}", 1, 10.0)
    for _ in range(5):
        memory.request("new", 1, 0.01)
        memory.request(f"other{memory.loads}", 1, 10.0)
    assert memory.order.ranking()[0][0].key[0] == "new"
    assert "new" in memory.loaded
    loads = memory.loads
    for number in range(20):
        memory.request(f"more{number}", 1, 10.0)
    assert memory.loads == loads + 20
    assert "new" not in memory.loaded


def test_frequencies_outlive_evictions() -> None:
    memory = Memory(40)
    for turn in range(6):
        memory.request("regular")
        for number in range(45):
            memory.request(f"once{turn}/{number}")
    usage = memory.loaded.get("regular")
    if usage is not None:
        memory.order.remove(usage, evicted=True)
    forgotten, back = Usage(("new", "1"), 1, 1.0), Usage(("regular", "1"), 1, 1.0)
    memory.order.add(forgotten)
    memory.order.add(back)
    worth = {usage.key[0]: value for usage, value in memory.order.ranking()}
    assert worth["regular"] > 1.5 * worth["new"]
    memory.order.remove(back, evicted=False)
    memory.order.add(back)
    worth = {usage.key[0]: value for usage, value in memory.order.ranking()}
    assert worth["regular"] == pytest.approx(worth["new"], rel=0.1)


def test_what_is_idle_ages_without_loads() -> None:
    memory = Memory(10)
    for name in ("idle", "in use"):
        memory.request(name)
    memory.now_ns += 5 * DAY_NS
    memory.request("in use")
    (idle, low), (used, high) = memory.order.ranking()
    assert (idle.key[0], used.key[0]) == ("idle", "in use")
    assert high > 3 * low


def test_the_hottest_are_remembered_when_they_are_evicted() -> None:
    memory = Memory(40)
    names = zipf(4000, 200)
    for name in names:
        memory.request(name)
    assert memory.order.hottest(3)[0] == ("m0", "1")
    assert set(memory.order.hottest(10)) >= {(f"m{number}", "1") for number in range(4)}
    assert len(memory.order.hottest(1000)) > 100
    assert memory.order.hottest(0) == []


def test_the_hottest_are_the_same_in_steps_and_each_is_told_once() -> None:
    order = EvictionOrder()
    usages = [Usage((f"m{number}", "1"), 1000, 0.01) for number in range(2500)]
    for number, usage in enumerate(usages):
        order.add(usage)
        usage.uses += number % 7
        usage.last_used_ns = perf_counter_ns()
    for usage in usages[:1200]:
        order.remove(usage, evicted=True)
    steps = list(order.hottest_in_steps(300))
    assert len(steps) >= 4
    assert steps[-1] == order.hottest(300)
    assert len(set(steps[-1])) == 300
    # What moves between two steps is told once.
    moving = order.hottest_in_steps(5000)
    next(moving)
    order.add(usages[0])
    order.remove(usages[2000], evicted=True)
    *_, last = moving
    assert len(last) == len(set(last)) == 2500


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction, "_REMEMBERED", 20)
    monkeypatch.setattr(eviction, "_CLOCK_READINGS", 16)
    memory = Memory(10)
    for number in range(1000):
        memory.request(f"m{number}")
        memory.order.update(memory.loaded[f"m{number}"])
    order = memory.order
    assert len(order.hottest(1000)) == 30
    assert len(order._all._items) + len(order._all._in_use) < 60
    assert len(order._rounds) < 60
    assert len(order._clock._times) <= 32


# Against the textbook, against LRU


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4)), max_size=200))
def test_lru_is_the_textbooks(requests: list[tuple[int, int]]) -> None:
    memory = Memory(8, "lru")
    sizes: dict[str, int] = {}
    textbook: OrderedDict[str, None] = OrderedDict()
    for number, size in requests:
        name = f"m{number}"
        size = sizes.setdefault(name, size)
        if name in textbook:
            textbook.move_to_end(name)
        else:
            gone = []
            while sum(sizes[each] for each in textbook) + size > 8:
                gone.append(textbook.popitem(last=False)[0])
            # The newest of them are spared where the others free enough.
            for each in reversed(gone):
                if sum(sizes[kept] for kept in textbook) + size + sizes[each] <= 8:
                    textbook[each] = None
                    textbook.move_to_end(each, last=False)
            textbook[name] = None
        memory.request(name, size)
        assert set(memory.loaded) == set(textbook)


@settings(max_examples=60)
@given(st.randoms(use_true_random=False), st.sampled_from(["cost", "lru"]))
def test_the_order_is_right_whatever_happens(chance: Random, policy: str) -> None:
    memory = Memory(10**9, policy)
    order, loaded = memory.order, memory.loaded
    for step in range(150):
        name = f"m{chance.randrange(30)}"
        usage = loaded.get(name)
        action = chance.random()
        if usage is None or action < 0.4:
            memory.request(name, chance.randint(1, 50), chance.random() * 10)
        elif action < 0.6:
            order.remove(usage, evicted=chance.random() < 0.5)
            del loaded[name]
        elif action < 0.7:
            usage.size = chance.randint(1, 50)
            order.update(usage)
        elif action < 0.8:
            usage.pinned = not usage.pinned
        if step % 5 == 0:
            check(memory, chance.randint(1, 100), {f"m{chance.randrange(30)}" for _ in range(4)}, policy)


def check(memory: Memory, need: int, held: set[str], policy: str) -> None:
    """The victims are what going through all versions, sorted, gives."""
    order = memory.order
    victims = order.victims(need, may_go=lambda usage: usage.key[0] not in held)
    order.ranking()  # looks at all
    session = order._session()
    entries = [each for each in order._entries.values() if each.usage.key[0] not in held and not each.usage.pinned]
    by_rank = sorted((each for each in entries if each.clock < session), key=lambda each: (each.rank, each.number))
    in_use = sorted((each for each in entries if each.clock >= session), key=lambda each: (each.clock, each.number))
    assert policy == "cost" or not in_use
    wanted: list[Usage] = []
    while sum(usage.size for usage in wanted) < need:
        rest = [each.usage for each in (*by_rank, *in_use)][len(wanted) :]
        if not rest:
            assert victims is None
            return
        wanted.append(rest[0])
    for usage in reversed(list(wanted)):
        if sum(each.size for each in wanted) - usage.size >= need:
            wanted.remove(usage)
    assert victims is not None
    assert [usage.key for usage in victims] == [usage.key for usage in wanted]


def test_cost_beats_lru_where_popularity_differs() -> None:
    loads = {}
    for policy in ("cost", "lru"):
        memory = Memory(30, policy)
        for name in zipf(8000, 300):
            memory.request(name)
        loads[policy] = memory.loads
    assert loads["cost"] < 0.85 * loads["lru"]


def test_cost_beats_lru_where_popularity_shifts() -> None:
    loads = {}
    for policy in ("cost", "lru"):
        memory = Memory(30, policy)
        for phase in range(8):
            for name in zipf(1000, 300, seed=phase):
                memory.request(f"m{(int(name[1:]) * 7 + 31 * phase) % 300}")
        loads[policy] = memory.loads
    assert loads["cost"] < 0.97 * loads["lru"]


def test_loading_takes_less_time_where_costs_differ() -> None:
    seconds = {}
    chance = Random(3)
    costs = {f"m{number}": (chance.randint(1, 20), chance.uniform(0.1, 20.0)) for number in range(300)}
    for policy in ("cost", "lru"):
        memory = Memory(300, policy)
        for name in zipf(8000, 300):
            memory.request(name, *costs[name])
        seconds[policy] = memory.seconds
    assert seconds["cost"] < 0.8 * seconds["lru"]


def test_with_many_versions_few_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    look_at = EvictionOrder._look_at

    def counted(self: EvictionOrder, entry: eviction._Entry) -> None:
        nonlocal looks
        looks += 1
        look_at(self, entry)

    monkeypatch.setattr(EvictionOrder, "_look_at", counted)
    memory = Memory(5000)
    for number in range(5000):
        memory.request(f"m{number}")
    chance = Random(4)
    looks = 0
    for number in range(5000):
        for usage in chance.choices(list(memory.loaded.values()), k=5):
            memory.request(usage.key[0])
        memory.request(f"new{number}")
    assert looks < 40 * 5000
