"""The functions that come with a graph, as models of their own."""

from __future__ import annotations

from salver.core.errors import CodeNotAllowed, InvalidConfig
from salver.core.model import ModelSpec
from salver.core.scheduling import Scheduling
from salver.graph.spec import CombineConfig, GraphConfig, StepConfig, all_steps, function_file


def function_specs(spec: ModelSpec, config: GraphConfig, *, allow_code: bool) -> dict[str, ModelSpec]:
    """What is to be loaded for a graph's functions, by FILE.py:NAME.

    Args:
        spec: the graph's.
        config: the graph.
        allow_code: whether it may bring functions.

    Raises:
        CodeNotAllowed: it brings some, and may not.
        InvalidConfig: two steps want one function in different ways.
    """
    used = _functions(config)
    if used and not allow_code:
        raise CodeNotAllowed(
            f"graph '{spec.name}': its steps call functions that come with it (such as {used[0][0]}), which isn't "
            "allowed; if you trust it, set allow_code (--allow-code, or SALVER_ALLOW_CODE=1)"
        )
    specs: dict[str, ModelSpec] = {}
    for function, step in used:
        wanted = _function_spec(spec, function, step)
        if specs.setdefault(function, wanted) != wanted:
            raise InvalidConfig(
                f"graph '{spec.name}': the steps that call {function} differ in 'isolation', 'instances' or 'timeout'"
            )
    return specs


def _functions(config: GraphConfig) -> list[tuple[str, StepConfig]]:
    found: list[tuple[str, StepConfig]] = []
    for step in all_steps(config):
        if step.function is not None:
            found.append((step.function, step))
        combine = None if step.ensemble is None else step.ensemble.combine
        if isinstance(combine, CombineConfig) and combine.function is not None:
            found.append((combine.function, step))
    return found


def _function_spec(spec: ModelSpec, function: str, step: StepConfig) -> ModelSpec:
    file, name = function_file(function)
    isolation = step.isolation or "thread"
    timeout = step.timeout if isolation == "process" and step.function is not None else None
    folder = spec.path if spec.path.is_dir() else spec.path.parent
    return ModelSpec(
        name=f"{spec.name}.{name}",
        version=spec.version,
        path=folder / file,
        runtime="python",
        isolation=isolation,
        scheduling=Scheduling(execution_timeout=timeout, instances=step.instances),
        options={"entry": name},
    )
