"""What is said of an imported autoencoder: the card of its pack, and its report."""

from __future__ import annotations

from medldm.metrics.code_quality import CodeQuality
from medldm.training.adopt import Adopted
from medldm.training.code_report import MeasuredCode, code_page, code_tables
from medldm.training.code_verdict import Verdict, judge


def _measured(adopted: Adopted, quality: CodeQuality) -> MeasuredCode:
    images = [scan.image for scan in adopted.scans]
    return MeasuredCode(adopted.recipe, adopted.autoencoder, quality, judge(quality), images, list(adopted.geometries))


def _facts(adopted: Adopted) -> dict[str, str]:
    table = adopted.recipe.autoencoder.model_dump()
    return {
        "family": table["family"],
        "weights": f"{adopted.source_name}, sha256 {adopted.source_sha256[:12]}",
        "range of its input": " to ".join(f"{v:g}" for v in table["config"].get("input_range", (0, 1))),
    }


def warnings_of(verdict: Verdict) -> list[str]:
    """Reasons not to train on these latents, and doubts; none: an empty list."""
    return [*verdict.reasons, *verdict.doubts]


def import_card(adopted: Adopted, quality: CodeQuality) -> str:
    """Markdown for the pack's card."""
    shown = _measured(adopted, quality)
    lines = [f"# {adopted.recipe.name}", "", adopted.recipe.description, ""]
    lines += ["Research use only; not a medical device. The weights have the licence of whoever made them.", ""]
    lines += [f"- {key}: {value}" for key, value in (_facts(adopted) | shown.facts()).items()]
    lines += ["", *(f"Warning: {warning}." for warning in warnings_of(shown.verdict))]
    for table in code_tables(quality):
        lines += ["", f"## {table.title}", "", f"| {' | '.join(table.columns)} |", "|---" * len(table.columns) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
        lines += ["", table.note] if table.note else []
    return "\n".join(lines) + "\n"


def import_report(adopted: Adopted, quality: CodeQuality) -> str:
    """One HTML page: figures, latents, the worst reconstructions."""
    shown = _measured(adopted, quality)
    text = adopted.recipe.description
    return code_page(shown, title="Imported autoencoder", text=text, facts=_facts(adopted))
