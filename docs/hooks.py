"""Adds pages that no Markdown file has: the notebook, and those files of the repository that pages link to."""

import ast
import pathlib
import re

import quickstart
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).parents[1]
LINK = re.compile(r"\]\(\.\./([\w./]+)\)")  # from docs/ to a file or directory beside it


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the notebook with its pictures, and a page for each file that a page links to outside of docs/."""
    text, pictures = quickstart.markdown(quickstart.read())
    files.append(File.generated(config, "quickstart.md", content=f"---\nhide: [navigation]\n---\n\n{text}"))
    for name, content in pictures.items():
        files.append(File.generated(config, name, content=content))
    top = [file for file in files.documentation_pages() if "/" not in file.src_uri]
    for path in sorted({path for file in top for path in LINK.findall(file.content_string)}):
        files.append(File.generated(config, f"source/{path}.md", content=_source(ROOT / path),
                                    inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, *, page: Page, **kwargs) -> str:
    """Points links that lead out of docs/ at the pages that `on_files` made."""
    return LINK.sub(r"](source/\1.md)", markdown) if "/" not in page.file.src_uri else markdown


def _source(path: pathlib.Path) -> str:
    """Returns a page with the text of a file, or with the modules of a directory and what each says of itself."""
    title = f"# {path.relative_to(ROOT)}\n\n"
    if path.is_file():
        return f"{title}````{path.suffix[1:]}\n{path.read_text('utf-8')}````\n"
    modules = {module.name: ast.parse(module.read_text("utf-8")) for module in sorted(path.glob("*.py"))}
    return title + "\n".join(f"- `{name}`: {ast.get_docstring(tree).splitlines()[0]}" for name, tree in modules.items())
