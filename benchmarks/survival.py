"""Does a training survive what happens to it? Killed while it writes, killed in mid-epoch, a full disk, two processes.
And does a drawing of 64 scans, shared by two processes, survive two kills?

    python -m benchmarks.survival [--quick]

Real command lines of `medldm train` and `synthesize` on a small made-up data set, on the CPU, one thread each.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import medldm
from benchmarks.record import bar, write
from medldm.geometry import Geometry
from medldm.volume import Volume

KILLS_WRITING, KILLS_BETWEEN = 20, 5
STEPS = 40
RECIPE = """
validation_fraction = 0.25
checkpoint_seconds = {seconds}
precision = "fp32"
source = [{{ folder = "." }}]

[pack]
name = "survivor"
dims = 2
modality = ["DX"]
spacing = [1.0, 1.0, 1.0]
spacing_range = [0.5, 3.0]
noise = "gaussian"
intensity = {{ kind = "percentile", low = 0.1, high = 99.9 }}
autoencoder = {{ factor = 4, channels = 4, width = {width}, encoder_depth = 1, decoder_depth = 1 }}
unet = {{ channels = [16, 32], attention_levels = [false, false] }}
heads = {{ main = {{ channels = [8, 8], depth = 1 }} }}

[pack.problems]
denoise = {{ head = "main", noise_std = [0.005, 0.25] }}
super_resolve = {{ head = "main", noise_std = [0.0025, 0.125], factors = [2] }}

[[stage]]
train = "autoencoder"
steps = {steps}
batch_size = 4
crop = [32, 32]
lr = 1e-3
{more}
[[stage]]
train = "denoiser"
problems = {{ denoise = 0.65, super_resolve = 0.35 }}
steps = {steps}
batch_size = 4
crop = [32, 32]
lr = 1e-3

[[stage]]
train = "head"
head = "main"
problems = {{ denoise = 0.65, super_resolve = 0.35 }}
steps = {steps}
batch_size = 4
crop = [32, 32]
lr = 1e-3
"""

GENERATOR = """
validation_fraction = 0.25
source = [{ folder = "." }]

[pack]
name = "drawer"
dims = 2
modality = ["DX"]
spacing = [1.0, 1.0, 1.0]
spacing_range = [0.5, 3.0]
noise = "gaussian"
intensity = { kind = "percentile", low = 0.1, high = 99.9 }
autoencoder = { factor = 4, channels = 4, width = 8, encoder_depth = 1, decoder_depth = 1 }

[pack.synthesis]
shape = [48, 40, 1]
unit = "grey8"
scale = 255.0
cascade = [{ unet = { channels = [16, 32], attention_levels = [false, false] } }]

[[stage]]
train = "autoencoder"
steps = 10
batch_size = 4
crop = [32, 32]
lr = 1e-3

[[stage]]
train = "generator"
level = 0
steps = 10
batch_size = 4
lr = 1e-3
"""


def make_data(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(8):
        array = np.add.outer(np.arange(48), np.arange(40))[..., None] * 2 + rng.random((48, 40, 1)) * 20
        medldm.write(
            Volume(array.astype(np.float32), Geometry.from_spacing((48, 40, 1), (1, 1, 1)), "grey8"),
            folder / f"{index}.png",
        )
    return folder


def make_recipe(path: Path, *, seconds: float, width: int = 8, steps: int = STEPS, more: str = "") -> Path:
    """more : of the autoencoder's stage"""
    path.write_text(RECIPE.format(seconds=seconds, width=width, steps=steps, more=more))
    return path


def command(recipe: Path, data: Path, out: Path, *more: str) -> list[str]:
    medldm_command = str(Path(sys.executable).with_name("medldm"))
    always = ("--device", "cpu", "--despite-gate")  # the question is not what the autoencoder is worth
    return [medldm_command, "train", str(recipe), "--data", str(data), "--out", str(out), *always, *more]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def sha(folder: Path) -> str:
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def kill_with_children(process: int) -> None:
    """A process and all that it started: torchrun's workers are in groups of their own."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in listed.splitlines())}
    family = [process]
    for member in family:  # which grows meanwhile
        family += [child for child, parent in parents.items() if parent == member]
    for member in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def start_and_kill(arguments: list[str], out: Path, wait: float) -> bool:
    """Kill the training `wait` seconds after its first checkpoint; whether it was still running."""
    silent = subprocess.DEVNULL
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=silent, stderr=silent)
    checkpoint = out / "checkpoint.pt"
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    while process.poll() is None:
        if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
            break
        time.sleep(0.002)
    time.sleep(wait)
    alive = process.poll() is None
    kill_with_children(process.pid)
    process.wait()
    return alive


def killed_while_writing(root: Path, data: Path, kills: int) -> tuple[int, int]:
    """A training that writes a checkpoint at every step, killed at random times: kills, unreadable checkpoints."""
    recipe, out = make_recipe(root / "writing.toml", seconds=1e-9, width=192, steps=2000), root / "writing"
    rng, unreadable = random.Random(0), 0
    for _ in range(kills):
        start_and_kill(command(recipe, data, out, "--quiet"), out, rng.uniform(0, 0.5))
        try:
            torch.load(out / "checkpoint.pt", weights_only=True)
        except Exception:
            unreadable += 1
    return kills, unreadable


def killed_between(root: Path, data: Path, kills: int, workers: int) -> bool:
    """Whether a training killed `kills` times ends with the very weights of one that was not."""
    recipe = make_recipe(root / "between.toml", seconds=0.02)
    whole, broken = root / f"whole{workers}", root / f"broken{workers}"
    more = ("--quiet", "--workers", str(workers))
    run(command(recipe, data, whole, *more))
    rng, done = random.Random(1), 0
    while done < kills:
        if start_and_kill(command(recipe, data, broken, *more), broken, rng.uniform(0, 0.15)):
            done += 1
        else:
            break
    run(command(recipe, data, broken, *more))
    return done == kills and sha(whole) == sha(broken)


def on_a_full_disk(root: Path, data: Path) -> bool:
    """An 8 MB file system: exit code not 0, one line that says why, and the checkpoint that fitted is intact."""
    small = root / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        print("no right to mount a small file system: not measured")
        return False
    try:
        out = small / "out"
        recipe = make_recipe(root / "small.toml", seconds=1e-9, width=96)
        start_and_kill(command(recipe, data, out, "--quiet"), out, 0)
        torch.load(out / "checkpoint.pt", weights_only=True)
        (small / "filler").write_bytes(b"0" * (os.statvfs(small).f_bavail * os.statvfs(small).f_bsize))
        before = hashlib.sha256((out / "checkpoint.pt").read_bytes()).hexdigest()
        failed = run(command(recipe, data, out, "--quiet"))
        said = failed.stderr.strip().splitlines()
        print(said)
        after = hashlib.sha256((out / "checkpoint.pt").read_bytes()).hexdigest()
        return failed.returncode != 0 and len(said) == 1 and before == after
    finally:
        subprocess.run(["umount", str(small)], check=False)


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]
    return list({(line["stage"], line["step"]): line["loss"] for line in lines}.values())  # again after a resume


def in_processes(number: int, arguments: list[str]) -> list[str]:
    """The same command in several processes of this machine, at a free port."""
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    return [torchrun, "--standalone", "--nproc-per-node", str(number), *arguments]


def two_processes(root: Path, data: Path, strategy: str, more: str = "", steps: int = STEPS) -> float:
    """Largest relative difference of the loss curves of one process and two (gloo).

    With "fsdp" the two are killed after their first checkpoint and go on. `more` is added to the autoencoder's stage.
    """
    seconds = 0.3 if strategy == "fsdp" else 1e9
    recipe = make_recipe(root / f"{strategy}.toml", seconds=seconds, steps=steps, more=more)
    one, two = root / f"one-{strategy}", root / f"two-{strategy}"
    run(command(recipe, data, one, "--quiet"))
    both = in_processes(2, command(recipe, data, two, "--quiet", "--strategy", strategy))
    if strategy == "fsdp" and not start_and_kill(both, two, 0.1):
        return float("inf")
    done = run(both)
    if done.returncode:
        print(done.stderr[-10_000:])
        return float("inf")
    a, b = np.array(losses(one)), np.array(losses(two))
    return float(np.max(np.abs(a - b) / np.abs(a))) if len(a) == len(b) else float("inf")


def drawn_by_two(root: Path, data: Path, count: int = 64) -> bool:
    """Whether `count` scans drawn by two processes, killed twice and gone on with, are those of one, to a bit."""
    recipe, model = root / "drawer.toml", root / "drawer"
    recipe.write_text(GENERATOR)
    run(command(recipe, data, model, "--quiet"))
    program, quiet = str(Path(sys.executable).with_name("medldm")), ("--quiet", "--steps", "10", "-n", str(count))

    def drawing(out: Path, *more: str) -> list[str]:
        return [program, "synthesize", "--model", str(model), "-o", str(out), *quiet, *more]

    whole, shared = root / "drawn", root / "drawn-by-two"
    run(drawing(whole))
    rng, there, silent = random.Random(2), 0, subprocess.DEVNULL
    for kill in range(2):
        both = [
            subprocess.Popen(
                drawing(shared, *(("--resume",) if kill else ())),
                env=ENVIRONMENT | {"RANK": str(rank), "WORLD_SIZE": "2"},
                stdout=silent,
                stderr=silent,
            )
            for rank in range(2)
        ]
        wanted = there + rng.randint(5, count // 3)
        while there < wanted and any(each.poll() is None for each in both):
            time.sleep(0.002)
            there = len(list(shared.glob("*"))) if shared.exists() else 0
        if all(each.poll() is not None for each in both):
            return False  # nothing was killed
        for each in both:
            kill_with_children(each.pid)
            each.wait()
    ends = [
        subprocess.Popen(drawing(shared, "--resume"), env=ENVIRONMENT | {"RANK": str(rank), "WORLD_SIZE": "2"})
        for rank in range(2)
    ]
    if any(each.wait() for each in ends):
        return False
    first, second = (
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
        for folder in (whole, shared)
    )
    return len(first) == count and first == second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data = make_data(root / "data")
        apart = two_processes(root, data, "ddp")
        print(f"one process and two: loss curves differ by {apart:.1e} (relative)")
        divided = two_processes(root, data, "fsdp")
        print(f"one process and two with divided weights, killed once: {divided:.1e}")
        kills, unreadable = killed_while_writing(root, data, 4 if quick else KILLS_WRITING)
        print(f"killed while writing: {unreadable} of {kills} checkpoints unreadable")
        between = 2 if quick else KILLS_BETWEEN
        same = {workers: killed_between(root, data, between, workers) for workers in (0, 2)}
        print(f"killed {between} times in mid-epoch: same weights {same}")
        drawn = drawn_by_two(root, data)
        print(f"64 scans by two processes, killed twice: {'the same files' if drawn else 'FAILED'}")
        full = on_a_full_disk(root, data)
        print(f"full disk: {'holds' if full else 'FAILED'}")
    bars = [
        bar("loss curves of one process and two, relative difference", apart, "<= 1e-5", apart <= 1e-5),
        bar("the same, weights divided (FSDP), killed once", divided, "<= 1e-5", divided <= 1e-5),
        bar(f"unreadable checkpoints after {kills} kills", unreadable, "0", unreadable == 0),
        *(
            bar(f"same weights after {between} kills, {workers} workers", value, "1", value)
            for workers, value in same.items()
        ),
        bar("64 scans by two processes, killed twice: the same files", drawn, "1", drawn),
        bar("8 MB file system: fails, old checkpoint intact", full, "1", full),
    ]
    write("survival", bars, bars)
    for one in bars:
        print(f"{one['name']}: {one['value']:g} (bar {one['target']}) {'holds' if one['holds'] else 'MISSED'}")


if __name__ == "__main__":
    main()
