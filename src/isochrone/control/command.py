"""What all commands share: where the controller is, how to print, how to say no."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from isochrone.control.sizes import parse_size
from isochrone.errors import ConfirmationNeeded, InvalidInput, IsochroneError

if TYPE_CHECKING:
    import msgspec

    from isochrone.control.client import Client

SITE_VARIABLE: Final = "ISOCHRONE_SITE"
INTERRUPTED: Final = 130  # as shells report SIGINT

S = TypeVar("S", bound="msgspec.Struct")


class Site:
    """The controller that a command is for, and the form its answer is wanted in."""

    def __init__(self) -> None:
        self.where = os.environ.get(SITE_VARIABLE, "")
        self.output = "table"

    def client(self) -> Client:
        if not self.where:
            raise InvalidInput(
                "which controller?", hint=f"give --site DIR|URL, or set {SITE_VARIABLE}"
            )
        from isochrone.control.client import Client  # a tenth of a second that --help can save

        return Client(self.where)

    def call(
        self,
        method: str,
        names: tuple[str, ...],
        body: dict[str, Any] | None = None,
        *,
        wait: float = 0.0,
        patience: float | None = None,
        query: dict[str, str] | None = None,
    ) -> bytes:
        from isochrone.control.client import ANSWER_S_MAX, path

        client = self.client()
        patience = ANSWER_S_MAX if patience is None else patience
        try:
            where = path(*names, query=query or {})
            return client.call(method, where, body, wait=wait, patience=patience)
        finally:
            client.close()

    def show(self, document: bytes, kind: type[S], draw: Callable[[S], None]) -> None:
        """Print an answer: as it came, or drawn for a person."""
        import msgspec

        if self.output == "json":
            click.echo(msgspec.json.format(document, indent=2))
        else:
            draw(msgspec.json.decode(document, type=kind))

    def done(self, fact: str, what: str, name: str) -> None:
        """Say that something without an answer of its own is done."""
        if self.output == "json":
            import msgspec

            click.echo(msgspec.json.format(msgspec.json.encode({fact: {what: name}}), indent=2))
        else:
            click.echo(f"{what} {name} {fact}", err=True)


def words_of(command: str, what: str, empty: str) -> list[str]:
    """A command as a shell would split it. Raises `InvalidInput`, `empty` if nothing is there."""
    import shlex

    try:
        words = shlex.split(command)
    except ValueError as e:
        raise InvalidInput(f"the {what} `{command}` cannot be read: {e}") from e
    if not words:
        raise InvalidInput(empty)
    return words


class Size(click.ParamType[int]):
    """Bytes, or 64MiB, 10GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return value if isinstance(value, int) else parse_size(value)


SIZE = Size()


pass_site = click.make_pass_decorator(Site, ensure=True)


def _keep(field: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    def keep(context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
        if value is not None:
            setattr(context.ensure_object(Site), field, value)
        return value

    return keep


def site_options() -> list[click.Option]:
    """`--site` and `--output`: before or after the command, as fingers type them."""
    return [
        click.Option(
            ["--site"],
            metavar="DIR|URL",
            callback=_keep("where"),
            expose_value=False,
            help=f"The controller: its directory or URL.  [env: {SITE_VARIABLE}]",
        ),
        click.Option(
            ["--output", "-o"],
            type=click.Choice(["table", "json"]),
            callback=_keep("output"),
            expose_value=False,
            help="Form of the answer on stdout.  [default: table]",
        ),
    ]


class SiteCommand(click.Command):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += site_options()


class SiteGroup(click.Group):
    command_class = SiteCommand
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += site_options()


def confirm(question: str, act: str, *, yes: bool) -> None:
    """Ask at a terminal. Raises `ConfirmationNeeded` without one, `click.Abort` for a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfirmationNeeded(f"{act} needs a confirmation, and there is no terminal to ask at")
    click.confirm(question, abort=True, err=True)


def run(command: click.Command) -> int:
    """Run a command line; its exit code. Every error is one line, with a hint on the next."""
    try:
        result = command.main(prog_name="isochrone", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.format_message(), err=True)
        return e.exit_code
    except click.UsageError as e:
        path = e.ctx.command_path if e.ctx is not None else "isochrone"
        return _say_no(e.format_message(), f"see: {path} --help", e.exit_code)
    except click.ClickException as e:
        return _say_no(e.format_message(), "", e.exit_code)
    except click.Abort as e:
        if isinstance(e.__cause__, KeyboardInterrupt):
            return INTERRUPTED
        return _say_no("nothing done", "", 1)
    except IsochroneError as e:
        return _say_no(e.message, e.hint, e.exit_code)
    return result if isinstance(result, int) else 0


def _say_no(message: str, hint: str, code: int) -> int:
    click.echo(f"isochrone: {message.rstrip('.')}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return code
