"""Documentation and what stands around it hold together: pages, links, public names, citation, public CI."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import medldm

yaml = pytest.importorskip("yaml")
slugify = pytest.importorskip("markdown.extensions.toc").slugify

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def text_of(page):
    """Without blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """Of the headings, as both the site and the repository's page name them."""
    headings = re.findall(r"^#+ +(.+)$", text_of(page), re.MULTILINE)
    return {slugify(re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading), "-") for heading in headings}


def entries(nav):
    """Pages of a navigation, in its order."""
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from entries(value) if isinstance(value, list) else [value]


@pytest.fixture(scope="module")
def nav():
    table = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return list(entries(table["nav"]))


def test_every_page_is_in_the_navigation_once(nav):
    assert sorted(nav) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("*.md"))], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_and_picture_leads_somewhere(page):
    broken = []
    for link in LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = not page.is_relative_to(DOCS) or target.is_relative_to(DOCS)
        if not (inside and target.is_file()) or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_picture_is_shown():
    shown = {Path(link).name for page in PAGES for link in LINK.findall(text_of(page))}
    assert {picture.name for picture in (DOCS / "images").iterdir()} <= shown


def test_every_public_name_has_its_place_in_the_reference():
    pages = [page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md")]
    named = re.findall(r"^::: medldm\.(\w+)$", "\n".join(pages), re.MULTILINE)
    errors = {name for name in medldm.__all__ if getattr(getattr(medldm, name), "__module__", "") == "medldm.errors"}
    assert len(named) == len(set(named)) and errors and "errors" in named
    assert set(medldm.__all__) - errors - {"__version__"} <= set(named)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for module in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed (make docs)")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    known = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=known)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_loads_nothing_from_the_network(site):
    loads = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^\">]*[^>]*>")
    found = {hit for page in site.rglob("*.html") for hit in loads.findall(page.read_text(encoding="utf-8"))}
    assert not found
    styles = [style.read_text(encoding="utf-8") for style in site.rglob("*.css")]
    assert styles and not any(re.search(r"url\(['\"]?(?:https?:)?//", style) for style in styles)


def test_docstrings_become_lists_and_examples(site):
    page = (site / "api" / "restoring" / "index.html").read_text(encoding="utf-8")
    denoise = page.split('id="medldm.denoise"')[1].split('id="medldm.super_resolve"')[0]
    assert "<li><code>scan</code>, <code>model</code>, <code>options</code>" in denoise
    assert "&gt;&gt;&gt;" in denoise and "Raises what" in denoise


def test_the_citation_names_this_version():
    table = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (table["version"], table["license"]) == (medldm.__version__, "Apache-2.0")


def test_the_public_ci_calls_what_the_project_calls():
    table = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = [step.get("run", "").removesuffix(" PYTHON=python") for step in table["jobs"]["test"]["steps"]]
    ours = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [step for step in steps if step.startswith("make ")] == [line for line in ours if line.startswith("make ")]


def test_the_hooks_of_a_commit_run_what_make_lint_runs():
    """In any environment: by the Python that is active, nothing of a folder or to be downloaded."""
    (table,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    entries = [hook["entry"] for hook in table["hooks"]]
    assert table["repo"] == "local" and {hook["language"] for hook in table["hooks"]} == {"system"}
    assert all(entry.startswith("python -") and ".venv" not in entry for entry in entries)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = re.findall(r"\$\(BIN\)/(.+)", re.search(r"^lint: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1])
    tools = ("ruff check", "ruff format --check", "mypy", "lint-imports")
    assert [next(tool for tool in tools if line.startswith(tool)) for line in lint] == list(tools)
    shown = " | ".join(entries)
    assert all(word in shown for word in ("ruff check", "ruff format --check", "mypy", "lint_imports_command"))
