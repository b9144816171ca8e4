"""The command line: parse, call, print. A file a kind of command; torch is imported once the call is checked."""

from __future__ import annotations

import sys

from medldm.cli.app import app, said_of
from medldm.cli.calibrate import calibrate
from medldm.cli.check import check
from medldm.cli.demo import demo
from medldm.cli.distill import distill
from medldm.cli.doctor import doctor, models
from medldm.cli.evaluate import evaluate
from medldm.cli.import_ import import_
from medldm.cli.inspect import inspect
from medldm.cli.plan import plan
from medldm.cli.restoring import denoise, inpaint, restore, superres
from medldm.cli.synthesize import synthesize
from medldm.cli.train import train
from medldm.cli.view import view

__all__ = ["app", "main"]

_restoring, _making = (denoise, superres, inpaint, restore), (synthesize, evaluate, train, distill, calibrate)
for _command in (*_restoring, *_making, view, inspect, check, plan, models, doctor, demo):
    app.command(help=said_of(_command))(_command)
app.command("import", help=said_of(import_))(import_)


def main() -> None:
    """Entry point of `medldm`; `--debug` may stand anywhere."""
    words = sys.argv[1:]
    if "--debug" in words:
        words = ["--debug", *(word for word in words if word != "--debug")]
    app(words, prog_name="medldm")
