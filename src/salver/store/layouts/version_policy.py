"""Which versions Triton and TensorFlow Serving serve: both have ``latest``, ``all`` and ``specific``."""

from __future__ import annotations

from collections.abc import Sequence

from salver.store.layouts.text_protobuf import Message

Policy = str | tuple[str, ...]
"""As ``versions`` of model.yaml has it."""


def choose_versions(
    config: Message, field: str, found: Sequence[str], problems: list[str]
) -> tuple[Policy, tuple[str, ...]]:
    """The policy, and what it chooses; the newest version where there is none.

    Args:
        config: the model's configuration.
        field: of the policy in it.
        found: the versions on disk, oldest first.
        problems: is added to where some of the listed versions aren't there.

    Raises:
        InvalidConfig: the policy can't be understood, or none of the versions that it lists is there.
    """
    policy = config.message(field)
    if policy is None or not policy:
        return "latest", tuple(found[-1:])
    if len(policy) > 1 or next(iter(policy)) not in ("latest", "all", "specific"):
        raise config.wrong(
            field, f"{field!r} has {', '.join(map(repr, policy))}; expected one of 'latest', 'all', 'specific'"
        )
    if "all" in policy:
        return "all", tuple(found)
    if (latest := policy.message("latest")) is not None:
        count = latest.integer("num_versions", 1)
        if count < 1:
            raise latest.wrong("num_versions", f"'num_versions' has to be at least 1, not {count}")
        return ("latest" if count == 1 else tuple(found[-count:])), tuple(found[-count:])
    specific = policy.message("specific")
    assert specific is not None
    listed = [str(version) for version in specific.integers("versions")]
    there = policy.wrong(
        "specific", f"'specific' lists {', '.join(listed) or 'no versions'}, and there is {', '.join(found)}"
    )
    wanted = tuple(version for version in found if version in listed)
    if not wanted:
        raise there
    if set(listed) - set(found):
        problems.append(str(there))
    return wanted, wanted
