"""What could be changed about a draft: variants to be scored, and which of them are worth saying. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, timedelta
from typing import Any

from flows.reddit.features import LINK, LONGEST_BODY, LONGEST_TITLE, TLDR, as_posted, readable

Variant = tuple[str, Mapping[str, Any]]
"""The change in words, and the draft with it."""

HOURS = (3, 6, 9, 12, 15, 18, 21)
"""How much later the same draft is tried."""

LONG_BODY_WORDS = 150
MOST = 3
LEAST_GAIN = 0.05
"""A change that brings less than this share more is not worth a person's time."""


def variants(draft: Mapping[str, Any]) -> list[Variant]:
    """The changes that make sense for this draft; each is one thing, so that its effect can be told.

    Args:
        draft: of `features.check_draft`.

    >>> from datetime import datetime
    >>> draft = {"title": "LOOK AT THIS!!", "body": "", "subreddit": "s", "time": datetime(2026, 1, 1, 20, tzinfo=UTC)}
    >>> [text for text, _ in variants(draft)][:3]
    ['Write the title without capitals throughout', 'Leave the exclamation marks out of the title',
     'Put the title as a question']
    """
    title, body = readable(draft["title"]).strip(), as_posted(readable(draft.get("body") or "")).strip()
    words = body.split()
    found: list[Variant] = []

    def retitled(text: str, changed: str) -> None:
        if changed and changed != title and len(changed) <= LONGEST_TITLE:
            found.append((text, {**draft, "title": changed}))

    def rewritten(text: str, changed: str) -> None:
        if changed != body and len(changed) <= LONGEST_BODY:
            found.append((text, {**draft, "body": changed}))

    if sum(each.isupper() for each in title) > 0.5 * sum(each.isalpha() for each in title):
        retitled("Write the title without capitals throughout", title.capitalize())
    if "!" in title:
        retitled("Leave the exclamation marks out of the title", title.replace("!", "").strip())
    if "?" not in title:
        retitled("Put the title as a question", title.rstrip(".!… ") + "?")
    else:
        retitled("Put the title as a statement", title.replace("?", "").strip())
    if len(title) > 120:
        retitled("Shorten the title to its first half", title[: len(title) // 2].rsplit(" ", 1)[0])
    if len(words) > LONG_BODY_WORDS:
        rewritten("Say it in half the words", body[: len(body) // 2].rsplit(" ", 1)[0])
        if not TLDR.search(body):
            rewritten("Add a tl;dr", body + "\n\nTL;DR: " + " ".join(words[:12]))
        if "\n\n" not in body:
            rewritten("Break the body into paragraphs", re.sub(r"([.!?]) (?=[A-Z])", r"\1\n\n", body))
    elif body:
        rewritten("Tell more: twice as much text", body + "\n\n" + body)
    if LINK.search(body):
        rewritten("Leave the links out", LINK.sub(lambda match: match[1] or "", body))
    for hours in HOURS:
        later = draft["time"] + timedelta(hours=hours)
        found.append((f"Post it at {later.astimezone(UTC):%H:%M UTC on %A}", {**draft, "time": later}))
    return found


def worth_saying(offered: Sequence[Variant], likes: Sequence[float], now: float) -> list[tuple[str, float]]:
    """The changes that bring more likes than the draft as it is, best first; of the times only the best.

    >>> draft = {"title": "A"}
    >>> worth_saying([("Ask", draft), ("Post it at 09:00 UTC on Monday", draft), ("Shout", draft)], [12, 11, 10], 10)
    [('Ask: about 12 likes instead of 10', 12), ('Post it at 09:00 UTC on Monday: about 11 likes instead of 10', 11)]
    """
    better = sorted(
        ((text, value) for (text, _), value in zip(offered, likes, strict=True) if value >= now * (1 + LEAST_GAIN)),
        key=lambda pair: -pair[1],
    )
    chosen: list[tuple[str, float]] = []
    for text, value in better:
        is_time = text.startswith("Post it at")
        if not (is_time and any(said.startswith("Post it at") for said, _ in chosen)):
            chosen.append((f"{text}: about {value:,.3g} likes instead of {now:,.3g}", value))
    return chosen[:MOST]
