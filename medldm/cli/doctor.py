"""`medldm models` and `medldm doctor`: what is installed, and what is broken."""

from __future__ import annotations

import json as json_
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer

from medldm.cli import options as o
from medldm.installed import installed_models

PACKAGES = (
    "medldm", "torch", "monai", "numpy", "nibabel", "pydicom", "highdicom", "python-gdcm", "pyjpegls",
    "pylibjpeg-openjpeg", "scikit-image", "scipy", "safetensors", "lightning-fabric",
    "bm3d", "bm4d", "nilearn",
)  # fmt: skip


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _torch() -> dict[str, Any]:
    try:
        import torch
    except Exception as failure:
        return {"problem": f"torch does not import ({type(failure).__name__})"}
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"device": "cuda" if gpus else "cpu", "gpus": gpus, "threads": torch.get_num_threads()}


def examine() -> dict[str, Any]:
    """Versions, devices, plugins and models, with a list of what is broken."""
    from medldm import registry

    torch, packs = _torch(), installed_models()
    plugins = {kind: registry.entries(kind) for kind in registry.KINDS}
    problems = [torch["problem"]] if "problem" in torch else []
    problems += [
        f"{kind}: {e.name} ({e.distribution}): {e.error}" for kind in plugins for e in plugins[kind] if e.error
    ]
    problems += [f"model {pack.name}: {pack.problem}" for pack in packs if pack.problem]
    return {
        "versions": _versions(),
        "torch": {**torch, "cores": os.cpu_count()},
        "plugins": {kind: [e.name for e in entries if not e.error] for kind, entries in plugins.items()},
        "models": [pack.to_dict() for pack in packs if not pack.problem],
        "problems": problems,
    }


def models(json: o.Json = False) -> None:
    """List the installed models: modality, voxel size, file size, what each can do."""
    packs = installed_models()
    if json:
        print(json_.dumps([pack.to_dict() for pack in packs], indent=2))
        return
    if not packs:
        print("no model is installed; install a model pack, or train one (medldm train)")
    for pack in packs:
        print(pack.name)
        if pack.problem:
            print(f"  not usable: {pack.problem}")
        else:
            print(f"  {pack.modality}, {pack.dims}D, {pack.spacing} mm, {pack.megabytes:g} MB: {pack.tasks}")


def doctor(json: o.Json = False) -> None:
    """Say what is installed and what is broken; exit code 1 where something is."""
    facts = examine()
    if json:
        print(json_.dumps(facts, indent=2))
    else:
        _print(facts)
    if facts["problems"]:
        raise typer.Exit(1)


def _print(facts: dict[str, Any]) -> None:
    print("versions  " + ", ".join(f"{name} {text}" for name, text in facts["versions"].items()))
    torch = facts["torch"]
    if "device" in torch:
        gpus = ", ".join(torch["gpus"]) or "no GPU"
        print(f"device    {torch['device']} ({gpus}; {torch['threads']} threads, {torch['cores']} cores)")
    for kind, names in facts["plugins"].items():
        print(f"{kind:9} {', '.join(names) or 'none'}")
    for pack in facts["models"]:
        print(f"pack      {pack['name']}: {pack['modality']}, {pack['spacing']} mm, {pack['megabytes']:g} MB")
    for problem in facts["problems"]:
        print(f"broken    {problem}")
    if not facts["problems"]:
        print("nothing is broken")
