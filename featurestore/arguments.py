"""What a command line may say: arguments that commands share, names that complete, the store they are about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from featurestore import terminal
from featurestore.errors import FeatureStoreError, NotFound

if TYPE_CHECKING:
    from featurestore.feature_group import FeatureGroup
    from featurestore.feature_view import FeatureView
    from featurestore.store import FeatureStore


class Commands(TyperGroup):
    """Takes `--home` before and after the command; ends with one line, not with a traceback, when the store refuses."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = args[: args.index("--")] if "--" in args else args
        place = next((i for i, word in enumerate(options) if word == "--home" or word.startswith("--home=")), 0)
        if ctx.parent is None and place:
            end = place + (2 if args[place] == "--home" else 1)
            args = [*args[place:end], *args[:place], *args[end:]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever reads the output has seen enough: Typer ends quietly
            raise
        except (FeatureStoreError, OSError) as error:
            terminal.error(str(error))
            raise typer.Exit(2) from error


def _groups(ctx: typer.Context, incomplete: str) -> list[str]:
    return _names(ctx, incomplete, groups=True)


def _views(ctx: typer.Context, incomplete: str) -> list[str]:
    return _names(ctx, incomplete, views=True)


def _everything(ctx: typer.Context, incomplete: str) -> list[str]:
    return _names(ctx, incomplete, groups=True, views=True)


def _names(ctx: typer.Context, incomplete: str, *, groups: bool = False, views: bool = False) -> list[str]:
    try:
        store = store_of(ctx)
    except FeatureStoreError:  # nothing to complete; the command itself will say why
        return []
    found = [g.name for g in store.get_feature_groups() if groups] + [
        v.name for v in store.get_feature_views() if views
    ]
    return sorted({name for name in found if name.startswith(incomplete)})


Group = Annotated[str, typer.Argument(help="A feature group.", show_default=False, autocompletion=_groups)]
GroupOrAll = Annotated[
    str | None, typer.Argument(help="A feature group; default all.", show_default=False, autocompletion=_groups)
]
View = Annotated[str, typer.Argument(help="A feature view.", show_default=False, autocompletion=_views)]
Name = Annotated[str, typer.Argument(help="A group or view.", show_default=False, autocompletion=_everything)]
Version = Annotated[int | None, typer.Option("--version", "-v", help="Its version; default the newest.", min=1)]
IsView = Annotated[bool, typer.Option("--view", help="The view, where a group has the same name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
Limit = Annotated[int, typer.Option("--limit", "-n", help="Rows to show.", min=1)]
Keys = Annotated[
    list[str] | None,
    typer.Argument(help="The columns of one key: name=value ...", metavar="NAME=VALUE...", show_default=False),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Training = Annotated[int, typer.Argument(help="A version of its training sets.", show_default=False, min=1)]


def store_of(ctx: typer.Context) -> FeatureStore:
    """The store the command is about. It must exist: a command line makes none by a slip of the keyboard."""
    from featurestore import settings as of_store
    from featurestore.store import connect

    home = ctx.find_root().params.get("home")
    settings = of_store.load() if home is None else of_store.load(home=home)
    if settings.catalog_url is None and not (settings.home / "catalog.db").exists():
        raise NotFound(
            f"There is no feature store in {str(settings.home)!r}. Name another home with --home or FEATURESTORE_HOME, "
            f"or make one in Python: featurestore.connect({str(settings.home)!r})."
        )
    store = connect(home)
    ctx.call_on_close(store.close)
    return store


def group_or_view(store: FeatureStore, name: str, version: int | None, *, view: bool) -> FeatureGroup | FeatureView:
    """The group of that name, else the view."""
    if not view and any(g.name == name for g in store.get_feature_groups()):
        return store.get_feature_group(name, version)
    if any(v.name == name for v in store.get_feature_views()):
        return store.get_feature_view(name, version)
    kind = "view" if view else "group or view"
    raise NotFound(f"There is no feature {kind} {name!r}. `featurestore list` shows what there is.")


def pairs(arguments: list[str] | None) -> dict[str, str]:
    """The names and values of arguments such as customer_id=7."""
    if wrong := [argument for argument in arguments or [] if "=" not in argument]:
        raise typer.BadParameter(f"{wrong[0]!r} is not of the form name=value.")
    return dict(argument.split("=", 1) for argument in arguments or [])


def confirm(question: str, yes: bool) -> None:
    """Go on when the answer is yes, or was given beforehand; else end with exit code 1."""
    if not yes:
        typer.confirm(question, abort=True, err=True)
