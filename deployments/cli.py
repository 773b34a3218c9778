"""The `triptych` command: how the systems are, where models and predictions come from, and which version serves.

It reads the home that `make demo` and `make up` write (TRIPTYCH_HOME, else the one named after the source), needs no
server, and makes nothing that is not there.

Exit codes: 0 all is well; 1 something is red, or a change would break what serves; 2 the command could not do what it
was asked to.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from deployments.inventory import Home, check_system, nothing_yet
from deployments.stack import WrongSettings, settings_here
from featurestore import terminal
from featurestore.arguments import Commands, Json, Limit
from featurestore.errors import NotFound


class OurCommands(Commands):
    """Wrong settings, too, end with one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except WrongSettings as error:
            terminal.error(str(error))
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=OurCommands, no_args_is_help=True, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip

System = Annotated[str, typer.Argument(help="Such as fraud.", show_default=False)]
SystemOrAll = Annotated[str | None, typer.Argument(help="Such as fraud; default all.", show_default=False)]
Model = Annotated[str, typer.Argument(help="A registered model, such as fraud_detection.", show_default=False)]
Why = Annotated[str, typer.Option("--why", help="The reason; kept with the version.", show_default=False)]


@app.callback()
def main() -> None:
    """Five prediction systems on one machine: how they are, what serves, and where it comes from."""


def home_here() -> Home:
    """The home that the environment's settings name."""
    return Home(settings_here())


@app.command(rich_help_panel="Look")
def status(system: SystemOrAll = None, json: Json = False) -> None:
    """Show how each system is: data, models, what predictions were worth.

    red: a group is older than it promises, or what serves is surely worse than asked for. yellow: something is missing
    or worth a look. The exit code is 0 only when nothing is red.

    Example: triptych status fraud
    """
    from deployments import shown
    from deployments.status import of_system
    from flows import systems

    home = home_here()
    names = systems() if system is None else [check_system(system)]
    found = [of_system(home, name) for name in names]
    if json:
        terminal.as_json({"home": str(home.settings.home), "systems": found})
    elif home.is_empty:
        terminal.line(nothing_yet(home.settings))
    else:
        shown.status(found)
    if any(each["state"] == "red" for each in found):
        raise typer.Exit(1)


@app.command(rich_help_panel="Look")
def partitions(
    system: System,
    every: Annotated[str, typer.Option(help="Length of a piece: 6h, 1d, 2w.")] = "1d",
    start: Annotated[str | None, typer.Option(help="From when; default the group's first window.")] = None,
    end: Annotated[str | None, typer.Option(help="Until when; default the end of its last window.")] = None,
    json: Json = False,
) -> None:
    """Show which stretches of time a system's feature groups hold or lack.

    done: all there. stale: all there, some of it computed by older code. partly, missing: not all, or none of it.
    Neighbouring pieces in the same state are one line.

    Example: triptych partitions electricity --every 1d --end 2026-07-01
    """
    from deployments import shown, stretches
    from featurestore.times import parse_time

    home = home_here()
    check_system(system)
    length = stretches.length_of(every)
    since, until = (None if text is None else parse_time(text) for text in (start, end))
    found = [asdict(each) for each in stretches.of_system(home, system, length, start=since, end=until)]
    if json:
        terminal.as_json(found)
    elif found:
        terminal.table(found, ["group", "start", "end", "state", "pieces"], styles=shown.STYLES)
    else:
        terminal.line(nothing_yet(home.settings) if home.is_empty else f"{system} has written no window yet.")


@app.command(rich_help_panel="Look")
def predictions(system: System, limit: Limit = 10, json: Json = False) -> None:
    """List the newest predictions of each model, with their ids.

    Example: triptych predictions fraud --limit 5
    """
    from deployments.predictions import newest

    found = newest(home_here(), check_system(system), limit)
    if json:
        return terminal.as_json(found)
    terminal.table(found, ["model", "version", "said", "unit", "state", "truth", "degraded"], flexible="id")


@app.command(rich_help_panel="Look")
def explain(
    prediction: Annotated[
        str, typer.Argument(help="Its id, as `triptych predictions` prints it, or fraud:tid=812.", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Explain a prediction: what was said, by what, of which rows.

    Its features as the view gives them (raw) and as the model is given them, what each added, which row of which group
    at which Delta version they come from, whether that was written later, the truth if it is known, and the lineage.

    Example: triptych explain fraud:tid=812,model_version=1
    """
    from deployments import shown
    from deployments.predictions import explained

    found = explained(home_here(), prediction)
    terminal.as_json(found) if json else shown.explained(found)


@app.command(rich_help_panel="Look")
def lineage(
    model: Annotated[
        str, typer.Argument(help="name@version, name@champion, or a name: its champion.", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Show where a model version comes from, and what it said.

    Its training dataset, view, feature groups at their Delta versions and source; run, code, predictions.

    Example: triptych lineage fraud_detection@champion
    """
    from deployments import ancestry

    home = home_here()
    _tree(ancestry.of_version(home, ancestry.find_version(home, model)), json=json)


@app.command(rich_help_panel="Look")
def impact(
    group: Annotated[str, typer.Argument(help="A feature group: name or name@version.", show_default=False)],
    drop: Annotated[list[str] | None, typer.Option(help="Whom does it concern when this column goes?")] = None,
    change: Annotated[list[str] | None, typer.Option(help="... or when it changes its meaning or type?")] = None,
    json: Json = False,
) -> None:
    """Show what is made of a feature group, down to what serves.

    With --drop or --change: whom that would concern. Then the exit code is 1 when a champion is among them.

    Example: triptych impact fraud_labels --change is_fraud
    """
    from deployments import ancestry, shown

    home = home_here()
    found = home.find_group(group)
    broken = [
        each
        for kind, columns in (("drop", drop), ("change", change))
        for column in columns or []
        for each in ancestry.broken_by(home, found, column, kind)  # type: ignore[arg-type]  # one of the two words
    ]
    if not (drop or change):
        return _tree(ancestry.of_group(home, found), json=json)
    if json:
        terminal.as_json([asdict(each) for each in broken])
    else:
        shown.broken(found.name, [*(drop or []), *(change or [])], [asdict(each) for each in broken])
    if any(each.serves for each in broken):
        raise typer.Exit(1)


def _tree(tree: Any, *, json: bool) -> None:
    if json:
        return terminal.as_json(tree.to_json())
    for line in str(tree).splitlines():
        terminal.line(terminal.literal(line))


@app.command(rich_help_panel="Look")
def score(system: SystemOrAll = None, json: Json = False) -> None:
    """Score each system by the ML Test Score (Breck et al., 2017).

    Four sections of seven tests: 1 where a test runs by itself, 0.5 where a person does it, 0 where nothing was found.
    The score is the lowest section.

    Example: triptych score fraud
    """
    from deployments import shown
    from deployments.rubric import scored
    from flows import systems

    home = home_here()
    found = [scored(home, name) for name in (systems() if system is None else [check_system(system)])]
    terminal.as_json(found) if json else shown.scores(found)


@app.command(rich_help_panel="Decide")
def promote(
    model: Model,
    version: Annotated[int, typer.Argument(help="The version that shall serve.", show_default=False, min=1)],
    why: Why,
    json: Json = False,
) -> None:
    """Let a version serve, whatever the gate said.

    The one that served becomes "previous". The next inference run takes the new one; to have it told to those who wait
    (events, the artifact promotion-<model>), run the deployment `promote` instead.

    Example: triptych promote fraud_detection 2 --why "fewer false alarms at night"
    """
    from flows import deciding

    _connect_registry()
    _serves(deciding.promote(model, version, why=why), json=json)


@app.command(rich_help_panel="Decide")
def rollback(model: Model, why: Why, json: Json = False) -> None:
    """Let the version serve again that the champion replaced.

    Example: triptych rollback fraud_detection --why "it flags every taxi"
    """
    from flows import deciding

    _connect_registry()
    _serves(deciding.roll_back(model, why=why), json=json)


def _connect_registry() -> None:
    home = home_here()
    if not home.has_registry:
        raise NotFound(nothing_yet(home.settings))


def _serves(model: Any, *, json: bool) -> None:
    """Say which version serves from now on, and how it came to that."""
    from flows import registry
    from flows.decision_report import newest

    decided = newest(model)
    previous = next((v.version for v in registry.versions(model.name) if registry.PREVIOUS in v.aliases), None)
    if json:
        return terminal.as_json(
            {"model": model.name, "version": model.version, "previous": previous, "decided": decided._asdict()}
        )
    before = "no version is previous" if previous is None else f"version {previous} is previous"
    terminal.line(f"{model} serves from now on; {before}. Kept with it: by {decided.who}: {decided.why}")


if __name__ == "__main__":
    app()
