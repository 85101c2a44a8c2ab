"""Runs the notebook in this process, and turns it into a page. No Jupyter is needed.

    python docs/quickstart.py        # runs docs/quickstart.ipynb and stores what its cells show
"""

import ast
import base64
import contextlib
import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any

PATH = pathlib.Path(__file__).with_name("quickstart.ipynb")


def read() -> dict[str, Any]:
    """Returns the notebook, as its file has it (nbformat 4)."""
    return json.loads(PATH.read_text("utf-8"))


def run(notebook: dict[str, Any]) -> None:
    """Runs the code cells one after the other, and puts what they show in place of their outputs.

    As in Jupyter, a cell shows what it prints and the value of its last expression. An explanation shows as PNG, which
    all viewers of stored notebooks draw.
    """
    names = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for count, cell in enumerate(cells, start=1):
        tree = ast.parse("".join(cell["source"]), f"<cell {count}>")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(tree, f"<cell {count}>", "exec"), names)
            value = last and eval(compile(ast.Expression(last.value), f"<cell {count}>", "eval"), names)
        cell["execution_count"] = count
        cell["outputs"] = [] if not printed.getvalue() else [
            {"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)}]
        cell["outputs"] += [{"output_type": "display_data", "metadata": {}, "data": data} for data in _shown(value)]


def markdown(notebook: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """Returns the notebook as Markdown, and the pictures in it by the names that the text gives them."""
    parts, pictures = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                name = f"quickstart_{len(pictures)}.png"
                pictures[name] = base64.b64decode(output["data"]["image/png"])
                parts.append(f"![{output['data']['text/plain']}]({name})")
            else:
                parts.append("```text\n{}\n```".format("".join(output.get("text") or output["data"]["text/plain"])))
    return "\n\n".join(parts), pictures


def _shown(value: Any) -> Iterator[dict[str, str]]:
    """Yields what Jupyter would show of a value, by media type."""
    from shapjax.report.explanation import Explanation  # JAX is not needed to build the pages
    from shapjax.report.figures import figure_bytes

    if isinstance(value, Explanation):
        for image, text in enumerate(repr(value).splitlines()):
            picture = figure_bytes(value.plot(image=image), dpi=110)
            yield {"image/png": base64.b64encode(picture).decode(), "text/plain": text}
    elif value is not None:
        yield {"text/plain": repr(value)}


if __name__ == "__main__":
    content = read()
    run(content)
    PATH.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
