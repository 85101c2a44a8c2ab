"""The documentation: a site that builds without a warning and loads nothing from elsewhere, code in it that runs."""

import html.parser
import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PACKAGES = ("", ".games", ".attribution", ".metrics", ".evaluation")
# Elements whose address a browser loads by itself, and the attribute with it. Those of `a` are only followed.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data", "link": "href"}


def public_names():
    for package in PACKAGES:
        module = importlib.import_module(f"shapjax{package}")
        yield from (f"{module.__name__}.{name}" for name in module.__all__ if f".{name}" not in PACKAGES)


@pytest.fixture(scope="module")
def notebook():
    """Returns docs/quickstart.py, as a module."""
    spec = importlib.util.spec_from_file_location("quickstart", DOCS / "quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Returns the directory of the site, built with every warning an error."""
    directory = tmp_path_factory.mktemp("site")  # with --quiet, --strict would not count warnings
    built = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", directory],
                           cwd=DOCS.parent, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    return directory


def test_every_public_name_has_one_place_in_the_reference():
    pages = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    assert sorted(re.findall(r"^::: (\S+)$", pages, re.M)) == sorted(public_names())


@pytest.mark.slow
def test_the_reference_says_something_of_every_public_name(site):
    text = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    assert not [name for name in public_names() if f'id="{name}"' not in text]
    of_phi = text.split('id="shapjax.attribution.phi"')[1].split("Parameters:")[0]
    assert "key" in of_phi and "batch_size" in of_phi  # in the signature, which a decorator makes


class Addresses(html.parser.HTMLParser):
    """Collects what a browser loads for a page."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name == LOADED.get(tag) and value]


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site):
    pages, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    addresses = [address for page in pages for address in Addresses(page.read_text()).found]
    addresses += [a for style in styles for a in re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", style.read_text())]
    assert len(pages) > 20 and len(styles) > 1 and any("stylesheets" in address for address in addresses)
    assert not [address for address in addresses if re.match(r"(?:\w+:)?//", address)]


@pytest.mark.slow
def test_the_site_has_the_notebook_with_its_pictures_and_the_files_that_pages_link_to(site):
    assert (site / "quickstart.html").read_text().count('src="quickstart_') > 2
    assert "Backbone" in (site / "source/shapjax/models/backbone.py.html").read_text()
    assert 'href="source/shapjax/config.py.html"' in (site / "data.html").read_text()


def test_the_stored_notebook_is_small_and_ends_with_pictures(notebook):
    assert notebook.PATH.stat().st_size < 1e6
    text, pictures = notebook.markdown(notebook.read())
    assert len(pictures) > 2 and all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    assert [name for name in re.findall(r"\((quickstart_\d\.png)\)", text)] == list(pictures)
    assert "![" in text.split("```")[-1]


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_and_show_what_is_stored(notebook):
    def kinds(content):
        return [[sorted(output.get("data", {"stdout": 0})) for output in cell.get("outputs", [])]
                for cell in content["cells"]]

    content = notebook.read()
    before = kinds(content)
    notebook.run(content)
    assert kinds(content) == before and any("image/png" in output for cell in before for output in cell)


def test_pictures_are_small_and_shown():
    used = set(re.findall(r"\((gallery/\w+\.png)\)", (DOCS / "gallery.md").read_text()))
    assert used == {f"gallery/{path.name}" for path in (DOCS / "gallery").iterdir()} and 6 <= len(used) <= 9
    assert all((DOCS / name).stat().st_size < 100_000 for name in used)
