"""Run a flow as `python -m flows.<system>.<pipeline> --start 2026-01-01 --end 2026-02-01`, without a server."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, get_args, get_type_hints

from prefect import Flow
from prefect.settings import (
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

from featurestore.errors import FeatureStoreError, InvalidTime
from featurestore.times import parse_time

# XGBoost's threads would wait for each other by spinning: on a busy machine one search took 288 s instead of 51 s.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def parse(flow: Flow[Any, Any], arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The flow's parameters from a command line: an option for each, dates as ISO text (UTC), a flag for yes or no.

    A parameter without a default must be given.

    >>> from prefect import flow
    >>> @flow
    ... def demo(model: str, end: datetime | None = None, days: int = 7, force: bool = False) -> None: ...
    >>> parse(demo, ["--model", "fraud", "--end", "2026-01-01"])
    {'model': 'fraud', 'end': datetime.datetime(2026, 1, 1, 0, 0, tzinfo=datetime.timezone.utc), 'days': 7,
    'force': False}
    """
    parser = argparse.ArgumentParser(prog=f"python -m {flow.fn.__module__}", description=flow.description)
    kinds = get_type_hints(flow.fn)
    for name, parameter in inspect.signature(flow.fn).parameters.items():
        if kinds[name] is bool:
            parser.add_argument(f"--{name}", action="store_true", default=parameter.default)
            continue
        reader, shown = _readers[next(each for each in (kinds[name], *get_args(kinds[name])) if each in _readers)]
        required = parameter.default is inspect.Parameter.empty
        default = None if required else parameter.default
        parser.add_argument(f"--{name}", type=reader, default=default, required=required, metavar=shown)
    return vars(parser.parse_args(arguments))


def run(flow: Flow[Any, Any]) -> None:
    """Run the flow with what the command line says; end with exit code 1 and the message when the store refuses."""
    parameters = parse(flow)
    try:
        # Without a server Prefect starts one for this run; it shall not call home, and on a busy machine it may take
        # longer than the 20 s that Prefect would wait.
        alone = {PREFECT_SERVER_ANALYTICS_ENABLED: False, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120}
        with temporary_settings(alone):
            print(flow(**parameters))
    except FeatureStoreError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def _time(text: str) -> datetime:
    try:
        return parse_time(text)
    except InvalidTime as error:
        raise argparse.ArgumentTypeError(str(error)) from error


_readers: dict[Any, tuple[Callable[[str], Any], str]] = {
    datetime: (_time, "TIME"),
    int: (int, "NUMBER"),
    str: (str, "TEXT"),
}
