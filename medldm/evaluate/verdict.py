"""What an evaluation's figures are and mean, in words: functions of its table alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["good", "fair", "bad"]
NEAR, FAR = 0.75, 0.4  # of the floor's precision or coverage
MEMORISED = 0.6  # AUC
BLURRED_DB = 3.0
DARKER = 0.02  # of the range, beyond the floor

MEANINGS = {
    "precision": "how many look real; other real scans set the mark",
    "recall": "how much of the real variety they reach",
    "density": "as precision, less moved by outliers",
    "coverage": "real scans that have a synthetic one near",
}


@dataclass(frozen=True)
class Finding:
    """One sentence, and how good that is."""

    level: Level
    text: str


def findings(table: dict[str, Any]) -> tuple[Finding, ...]:
    """Realism, diversity, detail, intensity, regions, copies, memorisation, in this order."""
    found = [_realism(table), _diversity(table), *_detail(table["quality"])]
    if table["regions"]:
        found.append(_regions(table["regions"]))
    return (*found, _copies(table), *_memory(table["privacy"]))


def headline(kid: dict[str, Any]) -> dict[str, float]:
    """The one KID of an evaluation: the image's, or the mean over the planes."""
    found: dict[str, float] = kid.get("mean") or next(iter(kid.values()), {})
    return found


def highest_auc(privacy: dict[str, Any]) -> dict[str, float]:
    """The AUC that speaks most for memorisation."""
    every = [value for own in privacy["auc"].values() for kind, value in own.items() if kind == _deciding(own)]
    return max(every, key=lambda value: value["mean"])


def _deciding(own: dict[str, Any]) -> str:
    return "closer_to_training" if "closer_to_training" in own else "closer_than_real"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _graded(own: float, floor: float | None) -> Level:
    share = own / floor if floor else own
    return "good" if share >= NEAR else "fair" if share >= FAR else "bad"


def _realism(table: dict[str, Any]) -> Finding:
    kids, precision = table["quality"]["kid"], table["quality"]["precision"]
    floor = precision.get("floor")
    level = _graded(precision["synthetic"]["mean"], floor and floor["mean"])
    words = {"good": "look like real ones", "fair": "look like real ones in part", "bad": "do not look like real ones"}
    text = f"The scans {words[level]}: {_share(precision['synthetic']['mean'])} lie among the real"
    text += f" (of other real scans {_share(floor['mean'])})" if floor else ""
    own, least = headline(kids["synthetic"]), headline(kids.get("floor", {}))
    if own:
        text += f"; KID {_one(own['mean'])}" + (f", between real sets {_one(least['mean'])}" if least else "")
        if least and own["low"] > max(least["high"], 0) and level == "good":
            text += ", so that as a set they can still be told apart"
            level = "fair"
    return Finding(level, text + ".")


def _diversity(table: dict[str, Any]) -> Finding:
    coverage, recall = table["quality"]["coverage"], table["quality"]["recall"]
    twins = table["privacy"]["synthetic_twins"]
    floor = coverage.get("floor")
    level = _graded(coverage["synthetic"]["mean"], floor and floor["mean"])
    words = {"good": "cover", "fair": "cover part of", "bad": "miss most of"}
    text = f"They {words[level]} the variety of real patients: coverage {_share(coverage['synthetic']['mean'])}"
    text += f" (other real scans {_share(floor['mean'])})" if floor else ""
    text += f", recall {_share(recall['synthetic']['mean'])}"
    if twins:
        text += f"; {twins} of {len(table['scans'])} have a near twin among the synthetic scans"
        level = "fair" if level == "good" and twins > 0.05 * len(table["scans"]) else level
    return Finding(level, text + ".")


def _detail(quality: dict[str, Any]) -> list[Finding]:
    spectrum, intensity = quality["spectrum"], quality["intensity"]
    floor, high = spectrum.get("floor", {"high_db": 0.0}), spectrum["synthetic"]["high_db"]
    beyond = abs(high) - abs(floor["high_db"])
    found = []
    if beyond > BLURRED_DB:
        kind = "blurred" if high < 0 else "too grainy"
        level: Level = "bad" if beyond > 2 * BLURRED_DB else "fair"
        amount = f"{abs(high):.1f} dB {'less' if high < 0 else 'more'}"
        found.append(Finding(level, f"They are {kind}: {amount} fine detail than real ones."))
    else:
        found.append(Finding("good", f"Their fine detail is that of real scans ({high:+.1f} dB)."))
    least = intensity.get("floor", {"distance": 0.0})["distance"]
    distance = intensity["synthetic"]["distance"]
    if distance > least + DARKER:
        text = f"Their intensities differ: by {_share(distance)} of the range on average (real sets {_share(least)})."
        found.append(Finding("fair" if distance < least + 3 * DARKER else "bad", text))
    return found


def _regions(regions: dict[str, Any]) -> Finding:
    labels = regions["labels"]
    different = sum(row["differs"] for row in labels)
    level: Level = "good" if not different else "fair" if different <= 0.2 * len(labels) else "bad"
    return Finding(level, f"{different} of {len(labels)} labelled regions differ in size from real ones.")


def _copies(table: dict[str, Any]) -> Finding:
    privacy, count = table["privacy"], len(table["scans"])
    if privacy["copies"]:
        real = privacy["held_out_flagged_share"]
        if real and privacy["copies_share"] <= 2 * real:
            text = f"{privacy['copies']} of {count} are as near to a training scan as copies are"
            return Finding("fair", f"{text}, but so are {100 * real:.1f} % of real held-out scans: look at them.")
        are = "is a copy of a training scan: do not share it" if privacy["copies"] == 1 else (
            "are copies of training scans: do not share them")  # fmt: skip
        return Finding("bad", f"{privacy['copies']} of {count} {are}; kept.csv leaves out what is too near.")
    return Finding("good", f"No copy of a training scan was found among {count}.")


def _memory(privacy: dict[str, Any]) -> list[Finding]:
    found = highest_auc(privacy)
    text = f"AUC {found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]; 0.5 is chance"
    if found["mean"] > MEMORISED and found["low"] > 0.5:
        result = [Finding("bad", f"They are nearer to the training scans than real scans are: memorised ({text}).")]
    elif found["high"] > MEMORISED:
        result = [Finding("fair", f"No clear sign of memorisation, nor enough scans to rule it out ({text}).")]
    else:
        result = [Finding("good", f"They are no nearer to the training scans than real scans are ({text}).")]
    if privacy["copies_of_held_out"]:
        count = privacy["copies_of_held_out"]
        result.append(Finding("bad", f"{count} equal held-out scans: were those trained on?"))
    if privacy["membership"]:
        best = max(privacy["membership"]["auc"].values(), key=lambda own: own["mean"])
        told = best["mean"] > MEMORISED and best["low"] > 0.5
        words = "tells" if told else "does not tell"
        text = f"The model's loss {words} training scans from others (AUC {best['mean']:.2f}"
        result.append(Finding("bad" if told else "good", f"{text} [{best['low']:.2f}, {best['high']:.2f}])."))
    return result


def summary(table: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of the table of figures: measure, synthetic, other real scans, what it says."""
    quality, privacy = table["quality"], table["privacy"]

    def both(key: str, shown: Any) -> tuple[str, str]:
        own = quality[key]
        return shown(own["synthetic"]), shown(own["floor"]) if own.get("floor") else ""

    rows = [("KID x 1000", *both("kid", lambda own: _interval(headline(own), 1)), "0: the same distribution")]
    if "mean" in quality["kid"]["synthetic"]:
        for plane in quality["kid"]["synthetic"]:
            if plane != "mean":
                shown = both("kid", lambda own, plane=plane: _interval(own.get(plane), 1))
                rows.append((f"KID, {plane}", *shown, ""))
    for key, meaning in MEANINGS.items():
        rows.append((key, *both(key, lambda own: _interval(own, 2)), meaning))
    spread = quality["diversity"]
    rows.append(
        ("mean distance of two scans", *both("diversity", _two), f"variety; reference {_two(spread['reference'])}")
    )
    rows.append(("intensity distance", *both("intensity", lambda own: f"{own['distance']:.3f}"), "share of the range"))
    rows.append(("fine detail", *both("spectrum", lambda own: f"{own['high_db']:+.1f} dB"), "0: as in real scans"))
    flagged = privacy["held_out_flagged_share"]
    real = "" if flagged is None else f"{100 * flagged:.1f} %"
    rows.append(("copies of training scans", f"{privacy['copies']} of {len(table['scans'])}", real, "0 is the aim"))
    for name, own in privacy["auc"].items():
        for kind, value in own.items():
            words = {"closer_than_real": "nearer to training than real scans are", "closer_to_training":
                     "nearer to training than to held-out"}  # fmt: skip
            rows.append((f"{words[kind]}, by {name}", _interval(value, 2), "0.50", "AUC; 1: memorised"))
    for level, value in (privacy["membership"] or {"auc": {}})["auc"].items():
        rows.append((f"membership by loss, {level}", _interval(value, 2), "0.50", "AUC; 1: memorised"))
    return rows


def _one(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # no minus before a zero


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _interval(value: dict[str, float] | None, digits: int) -> str:
    if not value or value["mean"] is None:
        return ""
    mean, low, high = (f"{round(value[key], digits) + 0.0:.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
