"""Run the workflows of MONAI's command line with typed overrides and one-line errors."""

from __future__ import annotations

import inspect
import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

from .configuration import unknown_key, unread_key
from .errors import UsageError, exit_code, report
from .memory import use_cpu_share
from .output import quieten_libraries
from .overrides import protected, require_types, typed

logger = logging.getLogger(__name__)
#: Workflows that are running.
_running: set[int] = set()


class Override(NamedTuple):
    """Hold a key's value as the user's text, as Fire parses it, and in the type that the configuration has."""

    text: str
    parsed: Any
    value: Any


def run_from_command_line(argv: Sequence[str] | None = None) -> None:
    """Take over the workflow of ``python -m monai.bundle run …``, and end the program with its exit code.

    It is the first entry of ``initialize``, before any other entry is evaluated. Fire parses ``false`` as text,
    which is true, and ``1.10`` as a number, and MONAI ends an error with a traceback. So the overrides are corrected
    first, and any error ends the program with one line (and, with MONAI_DEBUG=1, its traceback). Programs that
    create the workflow themselves are not changed.

    Args:
        argv: command line; the process's own by default.
    """
    from monai.utils.misc import MONAIEnvVars

    argv = sys.argv if argv is None else argv
    workflow = _workflow() if _is_monai(argv) else None
    if workflow is None or id(workflow) in _running:
        return
    _running.add(id(workflow))
    if not MONAIEnvVars.debug():
        quieten_libraries()
    use_cpu_share()
    try:
        for key, override in read_overrides(argv).items():
            value = protected(override.value)
            if repr(value) != repr(override.parsed):
                logger.debug(f"> {key}: {override.value!r}, as written")
                workflow.parser.update({key: value})
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:  # the last place that can turn an error into a message and an exit code
        _end(error)
    raise SystemExit(0)


def _end(error: Exception) -> None:
    """Report the cause of an error in one line, and end the program."""
    from monai.utils.misc import MONAIEnvVars

    if MONAIEnvVars.debug():
        traceback.print_exc()
    report(error)
    raise SystemExit(exit_code(error)) from None


def _is_monai(argv: Sequence[str]) -> bool:
    program = Path(argv[0]).parts[-3:] if argv else ()
    return program == ("monai", "bundle", "__main__.py") and argv[1:2] in (["run"], ["run_workflow"])


def _workflow() -> Any:
    """Return the workflow that is being initialized; None outside one.

    MONAI gives an expression no way to its workflow except the stack.
    """
    from monai.bundle import ConfigWorkflow

    frame = inspect.currentframe()
    while frame is not None:
        if isinstance(found := frame.f_locals.get("self"), ConfigWorkflow):
            return found
        frame = frame.f_back
    return None


def read_overrides(argv: Sequence[str]) -> dict[str, Override]:
    """Read the overrides (``--key value``) of MONAI's command line; check them and the configuration files.

    Raises:
        UsageError: for a key that nothing reads, a value of another type, or a None on the command line for a key
            with a value. MONAI silently accepts an unknown key, and ignores a None.
    """
    from fire.parser import DefaultParseValue
    from monai.bundle import ConfigParser, ConfigWorkflow, run, run_workflow
    from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

    flags = flags_of(argv[2:])
    parsed = {key: DefaultParseValue(text) for key, text in flags.items()}
    settings_file = ConfigParser.load_config_file(parsed["args_file"]) if "args_file" in parsed else {}
    given = {**settings_file, **parsed}
    files = given.get("config_file", [])
    configs = [ConfigParser.load_config_file(file) for file in ([files] if isinstance(files, str) else files)]
    if not configs:
        return {}
    own = {name for function in (run, run_workflow, ConfigWorkflow) for name in signature(function).parameters}
    settings: Any = DEFAULT_MLFLOW_SETTINGS
    own |= {"_meta_"} | (set(settings["configs"]) - configs[0].keys() if "tracking" in given else set())
    keys = [key for key in given if re.split("#|::", key)[0] not in own]
    if found := unread_key(configs, keys):
        raise UsageError(unknown_key(*found))
    contents = [*configs, {key: settings_file[key] for key in keys if key in settings_file}]
    require_types(contents)
    overrides = {
        key: Override(flags[key], parsed[key], typed(key, flags[key], contents)) for key in keys if key in flags
    }
    _refuse_none(overrides, contents)
    return overrides


def _refuse_none(overrides: Mapping[str, Override], contents: Sequence[Mapping[str, Any]]) -> None:
    """Raise a UsageError for a None instead of a value: MONAI drops it and keeps the configuration's own value."""
    from monai.bundle import ConfigParser

    merged: dict[str, Any] = {}
    for content in contents:
        merged |= content
    parser = ConfigParser(merged)
    for key, override in overrides.items():
        kept = parser.get(key) if override.value is None else None
        if kept is not None:
            raise UsageError(
                f"--{key} None: MONAI would leave it at {kept}; "
                f"write {json.dumps({key: None})} to a file, and name it last in --config_file"
            )


def flags_of(arguments: Sequence[str]) -> dict[str, str]:
    """Parse ``--key value``, ``--key=value``, ``--key`` and ``--nokey`` as Fire does, into texts."""
    flags: dict[str, str] = {}
    rest = list(arguments[: list(arguments).index("--")] if "--" in arguments else arguments)
    while rest:
        argument = rest.pop(0)
        if not _is_flag(argument):
            continue
        key, equals, text = argument.lstrip("-").partition("=")
        key = key.replace("-", "_")
        if not equals:
            if rest and not _is_flag(rest[0]):
                text = rest.pop(0)
            else:
                key, text = (key[2:], "False") if key.startswith("no") else (key, "True")
        flags[key] = text
    return flags


def _is_flag(argument: str) -> bool:
    return argument.startswith("--") or re.match("-[a-zA-Z]", argument) is not None
