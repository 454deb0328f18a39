"""The notebook runs anew, and prints and shows what it was saved with."""

import base64
import io
import re

import nbformat
import pytest
from nbclient import NotebookClient
from pages import ROOT, notebook_text, read
from PIL import Image

NOTEBOOK = "docs/tutorials/tradeoff.ipynb"
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def printed(notebook):
    """What the cells printed, one text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pictures(notebook):
    """The sizes of the pictures that the cells showed."""
    sizes = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                content = base64.b64decode(output.data["image/png"])
                sizes.append(Image.open(io.BytesIO(content)).size)
    return sizes


def test_the_notebook_gives_again_what_it_was_saved_with():
    notebook = nbformat.read(ROOT / NOTEBOOK, as_version=4)
    text = printed(notebook)
    sizes = pictures(notebook)
    assert "PSNR" in text
    assert len(sizes) == 3
    NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    again = printed(notebook)
    # Other processors round otherwise.
    assert NUMBER.sub("#", again) == NUMBER.sub("#", text)
    numbers = [float(number) for number in NUMBER.findall(text)]
    assert [float(number) for number in NUMBER.findall(again)] == pytest.approx(numbers, abs=0.05)
    assert pictures(notebook) == sizes


def test_a_notebook_is_a_page_with_programs_and_outputs():
    cells = [
        {"cell_type": "markdown", "source": ["# One\n", "two"]},
        {
            "cell_type": "code",
            "source": ["print(1)"],
            "outputs": [
                {"output_type": "stream", "text": ["1\n"]},
                {"output_type": "execute_result", "data": {"text/plain": ["2"]}},
                {"output_type": "display_data", "data": {"image/png": "QUJD\nRA==\n"}},
            ],
        },
    ]
    assert notebook_text({"cells": cells}) == (
        "# One\ntwo\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n```text\n2\n```\n\n"
        "![what the program shows](data:image/png;base64,QUJDRA==)\n"
    )
    assert read(NOTEBOOK).startswith("# One photograph at many tradeoffs\n")
