"""What Prefect's server watches by itself, as code: runs that died silently, a silent check, and notifications.

`apply` brings the server to what is declared here, by name and as often as one likes. It touches only what it has made
itself: its automations are owned by the resource `OWNER`. The triggers that start flows are in prefect.yaml.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from pydantic import SecretStr

from flows import events

if TYPE_CHECKING:  # importing Prefect takes 1.7 s; inside functions it happens while the server starts
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import Automation, AutomationCore

OWNER = "triptych.automations"

WEBHOOK = "TRIPTYCH_WEBHOOK"
"""The variable with the address that notifications are posted to. It is a secret: whoever knows it can post there."""

BLOCK = "triptych-webhook"

HEARTBEAT = timedelta(seconds=60)
"""How often a flow run says that it is alive."""

FAILURES = tuple(f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut"))

QUIET = timedelta(hours=1)
"""So long nobody is told again of the same flow that fails, or of the same alert of the same group or model."""


def apply(client: SyncPrefectClient, *, silent_after: timedelta = 4 * HEARTBEAT) -> None:
    """Create, change and remove automations until the server has those that are declared; enabled or not is kept.

    Args:
        silent_after: a run that has not been heard of for so long is marked as crashed.
    """
    wanted = {each.name: each for each in declared(webhook_block(client), silent_after=silent_after)}
    there = ours(client)
    for name in there.keys() - wanted.keys():
        client.delete_automation(there[name].id)
    for name, automation in wanted.items():
        if name not in there:
            client.create_automation(automation.model_copy(update={"owner_resource": OWNER}))
        elif _said(there[name]) != _said(automation):
            automation.enabled = there[name].enabled
            client.update_automation(there[name].id, _spelled_out(automation))


def ours(client: SyncPrefectClient) -> dict[str, Automation]:
    """The automations that `apply` has made, by name."""
    return {each.name: each for each in client.read_resource_related_automations(OWNER)}


def declared(webhook: UUID | None, *, silent_after: timedelta = 4 * HEARTBEAT) -> list[AutomationCore]:
    """The automations there should be.

    Args:
        webhook: the block that notifications are sent with; None sends none.
    """
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import CallWebhook, ChangeFlowRunState, DoNothing
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    from flows import freshness

    beat, run = "prefect.flow-run.heartbeat", {"prefect.resource.id": "prefect.flow-run.*"}
    watch = f"triptych.feature-group.{freshness.GROUP}.{freshness.VERSION}"
    send: list[Any] = [] if webhook is None else [CallWebhook(block_document_id=webhook, payload=PAYLOAD)]
    found = [
        AutomationCore(
            name="Triptych: a run that is silent has crashed",
            description="Its process was killed together with its worker, so nobody said that it ended, and it would "
            "stay Running and keep its deployment's only slot.",
            trigger=EventTrigger.model_validate({
                "posture": Posture.Proactive, "match": run, "for_each": {"prefect.resource.id"},
                # Any event of the run ends the wait: the event of a state has the state's name, and names are free.
                "after": {beat}, "expect": {"prefect.flow-run.*"}, "within": silent_after,
            }),
            actions=[ChangeFlowRunState(
                state=StateType.CRASHED, name="Crashed", force=False,
                message=f"Nothing was heard of it for {silent_after.total_seconds():.0f} s: its process is gone.",
            )],
        ),
        AutomationCore(
            name="Triptych: the check of freshness is silent",
            description="It runs every half hour and tells when a group is too old. This tells when it does not run.",
            trigger=EventTrigger.model_validate({
                "posture": Posture.Proactive, "match": {"prefect.resource.id": watch},
                "after": {events.COMMITTED}, "expect": {events.COMMITTED}, "within": timedelta(hours=2),
            }),
            actions=send or [DoNothing()],
        ),
    ]  # fmt: skip
    if send:
        found += [
            AutomationCore(
                name="Triptych: tell of runs that fail",
                description=f"Posts to the address in {WEBHOOK}; once an hour for each flow.",
                trigger=EventTrigger.model_validate({
                    "match": run, "expect": set(FAILURES), "within": QUIET,
                    "for_each": {"related:flow:prefect.resource.id"},
                }),
                actions=send,
                ),
            *(AutomationCore(
                name=f"Triptych: tell of {alert}",
                description=f"Posts to the address in {WEBHOOK}; once an hour for each group or model.",
                trigger=EventTrigger.model_validate({
                    "match": {"prefect.resource.id": "triptych.*"}, "expect": {alert}, "within": QUIET,
                    "for_each": {"prefect.resource.id"},
                }),
                actions=send,
                ) for alert in events.ALERTS),
        ]  # fmt: skip
    return found


PAYLOAD = json.dumps(
    {
        "text": "{{ automation.name }}: {{ event.event }} {{ event.resource.name or event.resource.id }}",
        "event": "{{ event.event }}",
        "resource": "{{ event.resource.id }}",
        "occurred": "{{ event.occurred }}",
    }
)
"""What is posted: JSON, with the field `text` that chat services show."""


def webhook_block(client: SyncPrefectClient) -> UUID | None:
    """The block with the address in TRIPTYCH_WEBHOOK, made or changed as needed; None, and no block, without one."""
    from prefect.blocks.webhook import Webhook
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_API_URL, temporary_settings

    try:
        there = client.read_block_document_by_name(BLOCK, Webhook.get_block_type_slug())
    except ObjectNotFound:
        there = None
    address = os.environ.get(WEBHOOK)
    if not address:
        if there is not None:
            client.delete_block_document(there.id)
        return None
    with temporary_settings({PREFECT_API_URL: str(client.api_url)}):
        return cast(UUID, Webhook(url=SecretStr(address)).save(BLOCK, overwrite=True))


def _said(automation: AutomationCore) -> dict[str, Any]:
    """What an automation says, without what the server or its user adds."""
    added = dict.fromkeys(("id", "created", "updated", "enabled", "owner_resource"), True)
    return automation.model_dump(exclude={**added, "trigger": {"id"}})


def _spelled_out(automation: AutomationCore) -> AutomationCore:
    """The same with every default set: the client leaves out what is not, and the server asks for some of it."""
    return type(automation).model_validate(automation.model_dump(mode="json", exclude={"owner_resource"}))
