import json
import os
import sys

import pytest

from featherweight.errors import InputError
from featherweight.grading import submissions as module
from featherweight.grading.submissions import find_submissions

NETWORK = "class Net(nn.Module):\n    pass\n"


def fill(folder, **files):
    """Make a folder with files; `__` in a name stands for a dot, and `_in_` for a folder."""
    for name, text in files.items():
        path = folder / name.replace("_in_", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def names(found):
    return [each.name for each in found]


def test_each_folder_and_file_is_a_submission_in_the_order_of_names(tmp_path):
    fill(tmp_path / "s10", model__py=NETWORK)
    fill(tmp_path / "s9", model__py=NETWORK)
    fill(tmp_path, anna__py=NETWORK, anna__pth="", ben__ipynb="{}", list__txt="", hidden__md="")
    fill(tmp_path / ".git", model__py=NETWORK)
    found = find_submissions(str(tmp_path))
    assert names(found) == ["anna", "ben", "s9", "s10"]
    assert found[0].weights == tmp_path / "anna.pth"
    assert found[3].file == tmp_path / "s10/model.py"


def test_the_file_with_a_network_is_found_below_the_folder(tmp_path):
    fill(tmp_path / "s1", utils__py="x = 1", deep_in_solution__py=NETWORK, train__py="import x")
    (found,) = find_submissions(str(tmp_path))
    assert found.shown_file == "deep/solution.py"
    assert found.chosen == ""


def test_of_several_files_one_with_a_usual_name_is_taken_else_the_last(tmp_path):
    usual = fill(tmp_path / "s1", a__py=NETWORK, model__py=NETWORK, z__py=NETWORK)
    last = fill(tmp_path / "s2", part9__py=NETWORK, part10__py=NETWORK)
    first, second = find_submissions(str(tmp_path))
    assert (first.file, first.chosen) == (
        usual / "model.py",
        "model.py, of 3 files with a network",
    )
    assert (second.file, second.chosen) == (
        last / "part10.py",
        "the last of 2 files with a network",
    )


def test_of_several_weights_those_with_the_files_name_are_taken_else_the_last(tmp_path):
    fill(tmp_path / "s1", net__py=NETWORK, a__pth="", net__pth="", z__pth="")
    fill(tmp_path / "s2", net__py=NETWORK, epoch9__pth="", epoch10__pth="")
    first, second = find_submissions(str(tmp_path))
    assert (first.weights.name, first.chosen) == ("net.pth", "")
    assert (second.weights.name, second.chosen) == ("epoch10.pth", "the last of 2 weights files")


def test_states_of_optimisers_and_torchvisions_images_are_no_weights(tmp_path):
    fill(tmp_path / "s1", net__py=NETWORK, model__pth="", optimizer__pt="", z_scheduler__pt="")
    fill(tmp_path / "s2", net__py=NETWORK, MNIST_in_processed_in_test__pt="", optim_in_a__pth="")
    first, second = find_submissions(str(tmp_path))
    assert (first.weights.name, first.chosen) == ("model.pth", "")
    assert second.weights.name == "a.pth"


def test_a_run_folder_goes_before_code(tmp_path):
    fill(tmp_path / "s1", model__py=NETWORK, run_in_config__json="{}", run_in_metrics__jsonl="")
    (found,) = find_submissions(str(tmp_path))
    assert (found.is_run, found.shown_file) == (True, "run")
    (itself,) = find_submissions(str(tmp_path / "s1/run"))
    assert (itself.is_run, itself.name) == (True, "run")


def test_a_folder_can_be_that_of_one_student(tmp_path):
    fill(tmp_path / "anna", model__py=NETWORK, utils__py="x = 1")
    (found,) = find_submissions(str(tmp_path / "anna"), single=True)
    assert (found.name, found.shown_file) == ("anna", "model.py")


def test_a_folder_without_a_network_is_a_submission_too(tmp_path):
    fill(tmp_path / "s1", report__txt="99.9 %")
    (found,) = find_submissions(str(tmp_path))
    assert found.file is None


def test_too_many_files_are_a_problem_of_one_submission(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_FILES", 2)
    fill(tmp_path / "anna", model__py=NETWORK)
    fill(tmp_path / "ben", a__py=NETWORK, b__py=NETWORK, c__py=NETWORK)
    anna, ben = find_submissions(str(tmp_path))
    assert anna.problem == ""
    assert "got more than 2 files" in ben.problem
    assert ben.digest()


def test_links_are_not_followed(tmp_path):
    secret = fill(tmp_path / "other", model__py=NETWORK)
    student = fill(tmp_path / "class/s1", notes__txt="")
    (student / "model.py").symlink_to(secret / "model.py")
    (tmp_path / "class/s2").symlink_to(secret)
    os.mkfifo(student / "pipe.py")
    (found,) = find_submissions(str(tmp_path / "class"))
    assert (found.name, found.file) == ("s1", None)


def test_a_csv_file_lists_paths_classes_weights_and_normalisation(tmp_path):
    fill(tmp_path, a_in_m__py=NETWORK, a_in_best__pth="", b__py=NETWORK, w__pth="")
    table = tmp_path / "class.csv"
    table.write_text(
        "student,path,class,weights,mean,std\nAnna,a,Net,best.pth,0.5,0.5\nBen,b.py,,w.pth,,\n"
        "Cleo,lost,,,,\nAnna,b.py,,,,\n"
    )
    anna, ben, cleo, again = find_submissions(str(table))
    assert (anna.network, anna.mean_std) == ("Net", (0.5, 0.5))
    assert anna.weights == tmp_path / "a/best.pth"
    assert ben.weights == tmp_path / "w.pth"
    assert cleo.file is None
    assert again.name == "Anna (2)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\na.py\n", "row 2: got no name"),
        ("name,path\nAnna,\n", "row 2: got no path"),
        ("name,path,mean,std\nAnna,a.py,x,1\n", "row 2: got mean 'x' and std '1'"),
        ("name,path,mean,std\nAnna,a.py,0,0\n", "expected two numbers"),
        ("name,path\n", "got no submission"),
        ("name\n\xff", "not a CSV file in UTF-8"),
    ],
)
def test_a_wrong_csv_file_is_refused_by_its_row(tmp_path, text, message):
    table = tmp_path / "class.csv"
    table.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        find_submissions(str(table))


def test_one_file_with_and_without_a_class(tmp_path):
    fill(tmp_path, net__py=NETWORK)
    assert find_submissions(str(tmp_path / "net.py"))[0].network is None
    assert find_submissions(f"{tmp_path / 'net.py'}:Net")[0].network == "Net"
    assert find_submissions(str(tmp_path / "net.py"), "Other")[0].network == "Other"
    for missing in ("lost.py", "lost.py:Net", "lost"):
        with pytest.raises(InputError, match="got no such file"):
            find_submissions(str(tmp_path / missing))


def test_a_digest_is_that_of_the_content_and_of_what_was_chosen(tmp_path):
    folder = fill(tmp_path / "s1", model__py=NETWORK, utils__py="x = 1")
    (before,) = find_submissions(str(tmp_path))
    digest = before.digest()
    assert find_submissions(str(tmp_path))[0].digest() == digest
    assert find_submissions(str(tmp_path), "Net")[0].digest() != digest
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/model.pyc").write_text("")
    assert before.digest() == digest
    (folder / "utils.py").write_text("x = 2")
    assert before.digest() != digest


def test_a_name_is_one_line_without_control_characters(tmp_path):
    fill(tmp_path / "a\nb\x1b[1m", model__py=NETWORK)
    (found,) = find_submissions(str(tmp_path))
    assert found.name == "a b\\x1b[1m"


def test_a_notebook_is_looked_through_as_json(tmp_path):
    cell = {"cell_type": "code", "source": ["class Net(nn.Module):\n", "    pass\n"]}
    fill(tmp_path / "s1", a__ipynb=json.dumps({"cells": [cell]}), z__py="import os")
    (found,) = find_submissions(str(tmp_path))
    assert found.shown_file == "a.ipynb"


def test_an_archive_that_nobody_has_unpacked_is_a_submission_that_says_so(tmp_path):
    fill(tmp_path, anna__zip="", ben__zip="", cleo_in_S6__ZIP="", dora__tar__gz="", list__txt="")
    fill(tmp_path / "ben", model__py=NETWORK)
    fill(tmp_path / "dora", model__py=NETWORK)
    anna, ben, cleo, dora = find_submissions(str(tmp_path))
    assert (anna.problem, anna.hint) == (
        "anna.zip: got an archive, expected a folder, or a .py or .ipynb file",
        "unpack it",
    )
    assert (ben.name, ben.problem, dora.name, dora.problem) == ("ben", "", "dora", "")
    assert "S6.ZIP: got an archive" in cleo.problem
    with pytest.raises(InputError, match=r"anna.zip: got an archive.*unpack it"):
        find_submissions(str(tmp_path / "anna.zip"))
    (tmp_path / "class.csv").write_text("name,path\nAnna,anna.zip\nEve,list.txt\n")
    anna, eve = find_submissions(str(tmp_path / "class.csv"))
    assert "got an archive" in anna.problem
    assert "list.txt: got a file .txt" in eve.problem


def test_suffixes_may_be_in_capitals(tmp_path):
    fill(tmp_path, anna__PY=NETWORK, anna__PTH="", anna__py__txt="", ben__IPYNB="{}")
    fill(tmp_path / "cleo", NET__PY=NETWORK, NET__SafeTensors="", z__PTH="")
    anna, ben, cleo = find_submissions(str(tmp_path))
    assert (anna.shown_file, anna.weights) == ("anna.PY", tmp_path / "anna.PTH")
    assert (ben.shown_file, ben.is_notebook) == ("ben.IPYNB", True)
    assert (cleo.shown_file, cleo.weights) == ("NET.PY", tmp_path / "cleo/NET.SafeTensors")
    assert find_submissions(f"{tmp_path / 'anna.PY'}:Net")[0].network == "Net"
    (tmp_path / "CLASS.CSV").write_text("name,path\nAnna,anna.PY\n")
    assert find_submissions(str(tmp_path / "CLASS.CSV"))[0].file == tmp_path / "anna.PY"


def test_a_text_has_the_paths_of_a_submission_as_they_are_shown(tmp_path, monkeypatch):
    fill(tmp_path / "class/anna", net__py=NETWORK, best__pth="", data_in_x__bin="")
    monkeypatch.chdir(tmp_path)
    for target in (tmp_path / "class", "class"):
        (anna,) = find_submissions(str(target))
        for root in (tmp_path / "class/anna", anna.root):
            text = f"weights {root}/best.pth, {root}/data/x.bin, {root}/net.py:Net and {root}: lost"
            assert anna.shorten(text) == "weights best.pth, data/x.bin, net.py:Net and anna: lost"


def test_names_differ_even_from_those_that_would_be_given(tmp_path):
    fill(tmp_path, anna__py=NETWORK, anna__ipynb="{}")
    fill(tmp_path / "anna (2)", model__py=NETWORK)
    found = find_submissions(str(tmp_path))
    assert sorted(names(found)) == ["anna", "anna (2)", "anna (3)"]
    assert next(each for each in found if each.name == "anna (2)").root.is_dir()


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system has no such names")
def test_a_name_that_is_no_utf_8_is_shown_with_its_bytes(tmp_path):
    folder = os.fsencode(tmp_path) + b"/ren\xe9"
    os.mkdir(folder)
    with open(folder + b"/r\xe9seau.py", "w") as file:
        file.write(NETWORK)
    (found,) = find_submissions(str(tmp_path))
    assert (found.name, found.shown_file) == (r"ren\udce9", r"r\udce9seau.py")
    assert found.digest()


def test_the_files_beside_it_that_a_file_imports_belong_to_it(tmp_path):
    text = "import torch, helper as h\nfrom parts.sub import x\nfrom . import other\n"
    fill(tmp_path, net__py=text + NETWORK, helper__py="import deep\n", deep__py="import net\n")
    fill(tmp_path, other__py="", alone__py="", parts_in_sub_in_x__py="")
    found = find_submissions(str(tmp_path / "net.py"))[0]
    inside = [str(each.relative_to(tmp_path)) for each in found.files()]
    assert inside == ["deep.py", "helper.py", "net.py", "other.py", "parts/sub/x.py"]
    digest = found.digest()
    (tmp_path / "alone.py").write_text("x = 1")
    assert found.digest() == digest
    (tmp_path / "deep.py").write_text("x = 1")
    assert found.digest() != digest


def test_a_notebook_and_the_files_that_it_imports_belong_together(tmp_path):
    lines = ["import os\n", "from helper import *\n", "%run other.py\n"]
    cell = {"cell_type": "code", "source": lines}
    fill(tmp_path, a__ipynb=json.dumps({"cells": [cell]}), helper__py="", other__py="")
    found = find_submissions(str(tmp_path / "a.ipynb"))[0]
    assert [each.name for each in found.files()] == ["a.ipynb", "helper.py", "other.py"]
