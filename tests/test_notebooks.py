"""The notebooks as they are stored, and as they run."""

import importlib.util
import json
import pathlib

import pytest
from notebook_four import cells_of, EXTENSIONS, FOLDER, tagged


NOTEBOOKS = ["1_first_network", "2_dynamics", "3_which_solver", "4_write_your_own", "5_four_theories"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_stored_without_outputs(name: str) -> None:
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_first_cell_installs_the_library_where_it_is_missing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = pytest.importorskip("IPython").InteractiveShell()
    installed = []
    shell.register_magic_function(installed.append, magic_name="pip")
    first = next("".join(cell["source"]) for cell in cells_of(name) if cell["cell_type"] == "code")
    shell.run_cell(first).raise_error()
    assert installed == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    shell.run_cell(first).raise_error()
    assert installed == ["install --quiet dfc_jax"]


@pytest.mark.script
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_run_without_warnings(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own shows figures in the notebook
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipywidgets")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", ()) for output in outputs)


@pytest.mark.parametrize("tag", EXTENSIONS)
def test_extensions_are_under_thirty_lines(tag: str) -> None:
    assert 0 < len(tagged(tag).splitlines()) < 30
