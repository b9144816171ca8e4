"""The application: its global options, and how failures end (exit codes 0, 1, 2, 130)."""

from __future__ import annotations

import inspect
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from medldm.errors import MedldmError

BAD_CALL, INTERRUPTED = 2, 130


def _place(failure: BaseException) -> str:
    """File and line of ours where it failed; the message itself may quote what a scan's header says."""
    own = [f for f in traceback.extract_tb(failure.__traceback__) if "medldm" in Path(f.filename).parts]
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def _failed_thread(failure: threading.ExceptHookArgs) -> None:
    """A thread that cannot write (TensorBoard's, on a full disk) tells its owner too, and one line is enough."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


class Guarded(TyperGroup):
    """Turns every failure into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        debug = bool(ctx.params.get("debug"))
        if not debug:
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            threading.excepthook = _failed_thread
        try:
            return super().invoke(ctx)
        except MedldmError as failure:
            self._end(f"error: {failure}", failure, debug)
            raise typer.Exit(failure.exit_code) from None
        except KeyboardInterrupt as failure:
            self._end("cancelled", failure, debug)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise  # who read it has seen enough (`| head`): click ends quietly
        except Exception as failure:
            if type(failure).__module__.split(".")[0] in ("typer", "click"):
                said = getattr(failure, "format_message", None)
                if said is None:
                    raise  # a normal end
                called = " ".join(filter(None, (ctx.command_path, ctx.invoked_subcommand)))
                self._end(f"error: {said().rstrip('.')}; see `{called} --help`", failure, debug)
                raise typer.Exit(BAD_CALL) from None
            text = f"error: {type(failure).__name__}{_place(failure)}; --debug shows the traceback"
            self._end(text, failure, debug)
            raise typer.Exit(1) from None

    @staticmethod
    def _end(text: str, failure: BaseException, debug: bool) -> None:
        if debug:
            traceback.print_exception(failure)
        print(text, file=sys.stderr)


app = typer.Typer(
    cls=Guarded,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Latent diffusion for medical images. Research use only; not a medical device.",
)


def said_of(command: Callable[..., Any]) -> str:
    """Its docstring as --help shows it: a paragraph a line, broken by the terminal and not where the source is."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"medldm {version('medldm')}")
        raise typer.Exit()


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Latent diffusion for medical images. Research use only; not a medical device."""
