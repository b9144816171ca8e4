"""How the command line is called: options, help, and refusals in one line that leave nothing behind."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from medldm.cli import app
from medldm.cli.options import parse_mode, parse_scale, parse_spacing
from medldm.cli.output import time_left
from medldm.errors import InputError
from tests.test_cli import call, names, one_line_error


def refusals(packs, picture, tmp_path):
    """(words, what the error says) of calls that cannot end well."""
    out, model = tmp_path / "o.png", packs / "tiny-2d"
    taken = tmp_path / "taken.png"
    taken.write_bytes(b"precious")
    (tmp_path / "text.txt").write_text("no scan", encoding="utf-8")
    base = ("denoise", "-i", picture, "--model", model)
    return [
        (("denoise", "-i", tmp_path / "absent.nii", "-o", out, "--model", model), "no such file"),
        (("denoise", "-i", tmp_path / "text.txt", "-o", out, "--model", model), "no reader knows"),
        (("denoise", "-i", picture, "-o", out, "--model", "chest-xray-265"), "did you mean 'chest-xray-256'"),
        (("denoise", "-i", picture, "-o", out, "--model", tmp_path / "absent"), "no such folder"),
        ((*base, "-o", taken), "existing file"),
        ((*base, "-o", tmp_path / "absent" / "o.png"), "no folder to write into"),
        ((*base, "-o", tmp_path / "o.xyz"), "no writer knows"),
        ((*base, "-o", tmp_path / "folder"), "format"),
        ((*base, "-o", picture, "--overwrite"), "the scan itself"),
        ((*base, "-o", out, "--report", tmp_path / "report.pdf"), ".html"),
        ((*base, "-o", out, "--residual", tmp_path / "r.png"), "picture"),
        (
            (*base, "-o", out, "--residual", tmp_path / "u.nii.gz", "--uncertainty", tmp_path / "u.nii.gz"),
            "twice",
        ),
        ((*base, "-o", out, "--sampler", "dpmpp_3m"), "did you mean 'dpmpp_2m'"),
        ((*base, "-o", out, "--device", "abacus"), "device"),
    ]


@pytest.mark.parametrize("number", range(14))
def test_refusals_are_one_line_and_leave_nothing_behind(packs, picture, tmp_path, number):
    words, expected = refusals(packs, picture, tmp_path)[number]
    before = names(tmp_path)
    assert expected in one_line_error(call(*words))
    assert names(tmp_path) == before
    assert (tmp_path / "taken.png").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("denoise", "-i", "a.nii", "-o", "b.nii", "--model"), "--model"),
        (("denoise", "-i", "a.nii", "-o", "b.nii"), "--model"),
        (("denoise", "-i", "a.nii", "-o", "b.nii", "--model", "m", "--noise-std", "-3"), "--noise-std"),
        (("denoise", "-i", "a.nii", "-o", "b.nii", "--model", "m", "--noise-std", "much"), "--noise-std"),
        (("synthesize", "-o", "new", "--model", "m", "-n", "0"), "--count"),
        (("denoise", "-i", "a.nii", "-o", "b.nii", "--model", "m", "--sede", "3"), "--seed"),
        (("denoise", "a.nii", "-i", "a.nii", "-o", "b.nii", "--model", "m"), "a.nii"),
    ],
)
def test_a_call_that_cannot_be_is_one_line_that_names_the_option_and_the_help(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    error = one_line_error(call(*words))
    assert said in error and error.endswith(f"{words[0]} --help`\n") and names(tmp_path) == []


def test_a_command_that_is_not_there_is_one_line_that_names_the_nearest():
    error = one_line_error(call("denois", "-i", "a.nii"))
    assert "'denoise'" in error and error.endswith("--help`\n")


def test_help_shows_every_text_whole_and_breaks_it_where_the_terminal_does(monkeypatch):
    monkeypatch.setenv("COLUMNS", "2000")
    for name, command in typer.main.get_command(app).commands.items():
        shown = call(name, "--help").stdout
        assert all(paragraph in shown for paragraph in command.help.split("\n\n")), name
        assert "\n" not in command.help.replace("\n\n", "")
        texts = [text for text in (getattr(param, "help", None) for param in command.params) if text]
        assert not [text for text in texts if text not in shown], name
    shown = call("denoise", "--help").stdout
    assert all(title in shown for title in ("How it is computed", "How the scan is read", "What is written"))


def test_an_unexpected_failure_is_one_line_without_what_the_scan_holds(monkeypatch, packs, picture, tmp_path):
    def fail(path, series=None):
        raise RuntimeError("Canary^Patient")

    monkeypatch.setattr("medldm.io.read_choice", fail)
    words = ("denoise", "-i", picture, "-o", tmp_path / "o.png", "--model", packs / "tiny-2d")
    error = one_line_error(call(*words), code=1)
    assert "RuntimeError" in error and "--debug" in error and "Canary" not in error
    assert "Traceback" in call("--debug", *words).stderr


def test_interruption_ends_with_130_and_leaves_nothing(monkeypatch, packs, picture, tmp_path):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("medldm.denoise", interrupt)
    done = call("denoise", "-i", picture, "-o", tmp_path / "o.png", "--model", packs / "tiny-2d")
    assert done.exit_code == 130 and done.stderr == "cancelled\n"
    assert names(tmp_path) == ["in.png"]


def test_train_checks_its_arguments_first(tmp_path):
    recipe = tmp_path / "r.toml"
    assert "r.toml" in one_line_error(call("train", recipe, "--data", tmp_path, "--out", tmp_path / "o"))
    recipe.write_text("name = 'x'\nfaktor = 3\n", encoding="utf-8")
    one_line_error(call("train", recipe, "--data", tmp_path, "--out", tmp_path / "o"))
    for out in (tmp_path / "no" / "such" / "o", recipe, recipe / "o"):
        one_line_error(call("train", "quick-2d", "--data", tmp_path, "--out", out))
    assert names(tmp_path) == ["r.toml"]


def test_debug_may_stand_anywhere(tmp_path):
    program = Path(sys.executable).with_name("medldm")
    done = subprocess.run(
        [str(program), "inspect", str(tmp_path / "absent"), "--debug"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" in done.stderr
    plain = subprocess.run(
        [str(program), "inspect", str(tmp_path / "absent")], capture_output=True, text=True, check=False
    )
    assert plain.returncode == 2 and plain.stderr.count("\n") == 1


@pytest.mark.parametrize(("text", "value"), [("fidelity", "fidelity"), ("perceptual", "perceptual"), ("0.25", 0.25)])
def test_mode_is_a_word_or_a_number(text, value):
    assert parse_mode(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [(parse_mode, "1.5"), (parse_mode, "nan"), (parse_mode, "best"), (parse_scale, "0"), (parse_scale, "2x2"),
     (parse_scale, "1.5"), (parse_spacing, "-1"), (parse_spacing, "1x1"), (parse_spacing, "inf")],
)  # fmt: skip
def test_wrong_texts_are_refused(parse, text):
    with pytest.raises(InputError):
        parse(text)


def test_scale_and_spacing_are_one_number_or_three():
    assert parse_scale("2") == 2 and parse_scale("1X1x2") == (1, 1, 2) and parse_scale(None) is None
    assert parse_spacing("1") == (1.0, 1.0, 1.0) and parse_spacing("0.8x0.8x3") == (0.8, 0.8, 3.0)


def test_times_are_said_in_the_unit_that_fits():
    assert [time_left(s) for s in (12, 600, 9000)] == ["12 s", "10 min", "2.5 h"]


def test_whoever_reads_may_stop_reading():
    program = Path(sys.executable).with_name("medldm")
    command = f"{shlex.quote(str(program))} synthesize --help | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
