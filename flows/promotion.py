"""A person's decisions about model versions as flows: let one serve, or return to the one before.

`triptych promote` and `triptych rollback` do the same without a server; these runs also tell those who wait for it.
"""

from __future__ import annotations

from prefect import flow, get_run_logger

from flows import deciding, registry
from flows.settings import Settings


@flow(name="promote", flow_run_name="promote {model} version {version}")
def promote(model: str, version: int, why: str) -> int:
    """Let a version of a model serve from now on, whatever the gate said; return the version.

    The one that served becomes "previous", so that a rollback is one call. Who, when and why are kept with the version.
    """
    registry.bootstrap(Settings())
    served = deciding.promote(model, version, why=why)
    get_run_logger().info("%s serves from now on.", served)
    return served.version


@flow(name="rollback", flow_run_name="rollback {model}")
def rollback(model: str, why: str) -> int:
    """Let the version serve again that the champion of a model replaced; return that version."""
    registry.bootstrap(Settings())
    served = deciding.roll_back(model, why=why)
    get_run_logger().info("%s serves again.", served)
    return served.version
