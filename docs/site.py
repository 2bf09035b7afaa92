"""The documentation as a website: ``python docs/site.py`` (or ``make site``) writes it to ``build/site``.

The pages are those of the repository, at the same places, so that their links hold on the site as they do on a code
host; what a page links to is taken along. The reference of both packages comes from their docstrings. Nothing is loaded
from elsewhere when the site is read, and every link is checked while it is built.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)]*)?\)")
SECTIONS = {
    "Start": ["README.md", "docs/quick-start.md", "docs/python.md", "docs/command-line.md", "docs/configuration.md"],
    "Data": ["docs/data.md", "docs/profiles.md", "docs/new-items.md"],
    "Models": ["docs/models.md", "docs/ensembles.md", "docs/sequential.md", "docs/adding-a-backbone.md"],
    "Experiments": ["docs/experiments.md", "docs/metrics.md", "docs/figures.md"],
    "In use": ["docs/production.md", "docs/large-catalogues.md"],
    "Operators": ["docs/operators.md", "docs/promises.md", "docs/gpu-checklist.md", "csrc/README.md"],
    "From elsewhere": ["docs/from-recbole.md", "docs/from-the-authors-code.md"],
    "Development": [
        "CONTRIBUTING.md",
        "docs/adding-a-generative-recommender.md",
        "benchmarks/README.md",
        "CHANGELOG.md",
    ],
}
OPERATORS = sorted(path for path in (ROOT / "dmrec_ext/ops").glob("*.py") if not path.stem.startswith("_"))
REFERENCE = {
    "dmrec": ["dmrec.api", "dmrec.inference.recommender", "dmrec.data.dataset", "dmrec.data.sources.frames"],
    "dmrec: extending": ["dmrec.models.base", "dmrec.eval.metrics", "dmrec.eval.lists", "dmrec.plugins"],
    "dmrec_ext": ["dmrec_ext.csr", *(f"dmrec_ext.ops.{path.stem}" for path in OPERATORS)],
}


def stage(pages: Path) -> list[dict[str, list[dict[str, str]]]]:
    """Copies the pages and all that they link to; returns the navigation."""
    shutil.rmtree(pages, ignore_errors=True)
    waiting, done = [ROOT / page for part in SECTIONS.values() for page in part], set[Path]()
    while waiting:
        source = waiting.pop()
        if source in done:
            continue
        done.add(source)
        target = pages / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            files = sorted(path for path in source.rglob("*") if path.is_file())
            lines = [f"- [{path.relative_to(source)}]({path.relative_to(source)})" for path in files]
            target.mkdir(parents=True, exist_ok=True)
            (target / "index.md").write_text(f"# {source.relative_to(ROOT)}\n\n" + "\n".join(lines) + "\n")
            waiting += files
        elif source.suffix == ".md":
            text = source.read_text(encoding="utf-8")
            for link, _ in LINK.findall(text):
                linked = (source.parent / link).resolve()
                if not linked.exists():
                    raise SystemExit(f"{source}: nothing is at {link}")
                waiting.append(linked)
                if linked.is_dir():
                    text = text.replace(f"]({link})", f"]({link}/index.md)")
            target.write_text(text, encoding="utf-8")
        else:
            shutil.copy(source, target)
    for name, modules in REFERENCE.items():
        path = pages / "reference" / f"{re.sub(r'[^a-z_]+', '-', name)}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# {name}\n\n" + "\n".join(f"::: {module}\n" for module in modules))
    navigation = [{section: [_entry(pages, page) for page in files]} for section, files in SECTIONS.items()]
    references = [{name: f"reference/{re.sub(r'[^a-z_]+', '-', name)}.md"} for name in REFERENCE]
    return [*navigation, {"Reference": references}]


def _entry(pages: Path, page: str) -> dict[str, str]:
    """A page by its first heading."""
    heading = re.search(r"^# (.+)$", (pages / page).read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[`*]", "", heading[1]) if heading else page: page}


def build(folder: Path = BUILD) -> Path:
    """Builds the site in ``folder``; returns where it is.

    Raises:
        SystemExit: a link leads nowhere, or a docstring cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pages, site = folder / "site-pages", folder / "site"
    navigation = stage(pages)
    options = {
        "docstring_style": "google",
        "show_root_heading": True,
        "show_root_full_path": True,
        "show_source": False,
        "show_if_no_docstring": False,
        "members_order": "source",
        "separate_signature": True,
        "show_signature_annotations": True,
        "line_length": 100,
        "filters": ["!^_", "!^[A-Z_]+$"],
        "extensions": [str(ROOT / "docs/docstrings.py")],
    }
    paths = [str(ROOT / "python"), str(ROOT)]
    config = {
        "site_name": "DMRec",
        "docs_dir": str(pages),
        "site_dir": str(site),
        "use_directory_urls": False,
        "theme": {
            "name": "material",
            "font": False,
            "features": ["navigation.indexes", "navigation.top", "content.code.copy", "search.suggest"],
            "palette": [{"scheme": "default", "primary": "black"}],
        },
        "plugins": [
            {"search": {}},
            {"mkdocstrings": {"handlers": {"python": {"paths": paths, "options": options}}}},
        ],
        "markdown_extensions": ["tables", "pymdownx.superfences", "pymdownx.highlight", {"toc": {"permalink": True}}],
        "validation": {
            "omitted_files": "ignore",
            "absolute_links": "warn",
            "unrecognized_links": "warn",
            "anchors": "warn",
        },
        "nav": navigation,
    }
    file = folder / "mkdocs.yml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--clean", "-f", str(file)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    if subprocess.run(command, check=False, env=environment).returncode:
        raise SystemExit("the site was not built")
    return site


if __name__ == "__main__":
    print(build())
