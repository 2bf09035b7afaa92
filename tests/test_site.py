"""The documentation as a website: every page is in it, links hold, nothing is loaded from elsewhere."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import dmrec_ext

ROOT = Path(__file__).parents[1]


def _module(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built strictly: a link that leads nowhere ends it."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    return _module("site").build(tmp_path_factory.mktemp("site"))


def test_every_page_is_in_the_navigation(site):
    listed = {page for part in _module("site").SECTIONS.values() for page in part}
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= listed
    for page in listed:
        assert (site / page.replace("README.md", "index.md")).with_suffix(".html").exists(), page


def test_the_reference_has_every_operator_and_no_role_is_left(site):
    text = (site / "reference/dmrec_ext.html").read_text()
    for name in dmrec_ext.__all__:
        if callable(getattr(dmrec_ext, name)) and name[0].islower() and hasattr(getattr(dmrec_ext, name), "__module__"):
            module = getattr(dmrec_ext, name).__module__
            if module.startswith("dmrec_ext.ops"):
                assert f'id="{module}.{name}"' in text, name
    assert ":math:" not in text
    assert ".. math::" not in text
    assert 'id="dmrec.api.train"' in (site / "reference/dmrec.html").read_text()


def test_nothing_is_loaded_from_elsewhere(site):
    loads = re.compile(
        r"<(?:script|img|iframe)[^>]* src=\"(https?:)?//|<link[^>]* rel=\"(?:stylesheet|preconnect)\"[^>]*//"
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        assert not loads.search(page.read_text()), page


def test_docstrings_become_markdown():
    pytest.importorskip("griffe", reason="griffe is not installed")
    text = "A :math:`x^2`.\n\n.. math:: a\n    b\n\nThen:\n\n>>> f(1)\n2\n\nEnd."
    assert _module("docstrings").readable(text) == (
        "A `x^2`.\n\n```text\na\nb\n```\n\nThen:\n\n```pycon\n>>> f(1)\n2\n```\n\nEnd."
    )
