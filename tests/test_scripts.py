"""Scripts that have never heard of fusestep, run plain and by ``python -m fusestep``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain import ROOT

SCRIPTS = sorted((ROOT / "tests" / "scripts").glob("*.py"))
FUSESTEP = ("-m", "fusestep")


Done = subprocess.CompletedProcess[str]


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> Done:
    environment = {**os.environ, **environment}
    command = (sys.executable, *command)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def losses(output: str) -> list[float]:
    return [float(number) for number in re.findall(r"loss (\S+)", output)]


# ---- what they compute ----


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_losses_agree(script: Path) -> None:
    pytest.importorskip("sklearn", reason="the scripts need the extra `examples`")
    plain = run(script)
    accelerated = run(*FUSESTEP, "--report", script)
    assert plain.returncode == accelerated.returncode == 0, plain.stderr + accelerated.stderr
    theirs, ours = losses(plain.stdout), losses(accelerated.stdout)
    assert len(theirs) == len(ours) >= 4
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)  # rounding grows over hundreds of steps
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    report = accelerated.stderr
    assert re.search(r"\.step +\d+ +\d+\.\d+", report), report
    assert not re.search(r" [1-9]\d* {2}\S", report), f"torch took a call: {report}"


def test_there_is_a_script_for_each_of_the_usual_loops() -> None:
    assert len(SCRIPTS) == 5
    for script in SCRIPTS:
        assert "fusestep" not in script.read_text()


# ---- what they see of themselves ----

ABOUT = """
import sys, os
print(sys.argv, __name__, __file__, __spec__ and __spec__.name, __package__)
print(sys.path[0], type(__loader__).__name__)
print(sys.modules["__main__"].__dict__ is globals(), __builtins__.__name__, __doc__, __cached__)
import beside
class Local: pass
import pickle
print(type(pickle.loads(pickle.dumps(Local()))) is Local)
"""
ENDS = {
    "returns": "",
    "exits": "sys.exit(7)",
    "says why": "sys.exit('enough')",
    "raises": "def f():\n    raise ValueError('deep')\nf()",
    "chains": "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise RuntimeError from error",
    "is interrupted": "raise KeyboardInterrupt",
    "hooks": "sys.excepthook = lambda kind, error, traceback: print(kind, traceback.tb_lineno)\n1 / 0",
    "fails in a thread": "import threading\nt = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()",
    "cleans up": "import atexit\natexit.register(print, 'last')\n1 / 0",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("print('imported')\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("print('package')\n")
    (tmp_path / "package" / "__main__.py").write_text(ABOUT)
    return tmp_path


def assert_alike(*command: str | Path, cwd: Path) -> Done:
    """Output, traceback and exit code, with and without us."""
    plain, ours = run(*command, cwd=cwd), run(*FUSESTEP, *command, cwd=cwd)
    assert (ours.stdout, ours.stderr, ours.returncode) == (plain.stdout, plain.stderr, plain.returncode)
    return ours


@pytest.mark.parametrize("end", ENDS)
def test_a_script_notices_nothing(folder: Path, end: str) -> None:
    (folder / "script.py").write_text(ABOUT + ENDS[end] + "\n")
    done = assert_alike("script.py", "--report", "-m", cwd=folder)
    assert "['script.py', '--report', '-m'] __main__" in done.stdout
    if end == "returns":
        assert_alike(folder / "script.py", cwd=ROOT)


def test_a_script_that_does_not_compile(folder: Path) -> None:
    (folder / "script.py").write_text("x = (\n")
    assert "SyntaxError" in assert_alike("script.py", cwd=folder).stderr


def test_a_script_in_another_encoding(folder: Path) -> None:
    (folder / "script.py").write_bytes("# coding: latin-1\nprint(len('é'))\n".encode("latin-1"))
    assert assert_alike("script.py", cwd=folder).stdout == "1\n"


@pytest.mark.parametrize("name", ["beside", "package", "package.__main__"])
def test_modules(folder: Path, name: str) -> None:
    assert assert_alike("-m", name, "a", "-b", cwd=folder).returncode == 0


def test_a_folder_and_an_archive_with_a_main(folder: Path) -> None:
    (folder / "package" / "beside.py").write_text("print('inside')\n")
    assert "inside" in assert_alike("package", cwd=folder).stdout
    shutil.make_archive(str(folder / "archive"), "zip", folder / "package")
    assert "inside" in assert_alike("archive.zip", "a", cwd=folder).stdout
    (folder / "package" / "__main__.py").unlink()
    done = run(*FUSESTEP, "package", cwd=folder)
    assert (done.returncode, done.stderr) == (2, "fusestep: cannot find '__main__' in 'package'\n")


def test_a_link_to_a_script(folder: Path) -> None:
    (folder / "script.py").write_text(ABOUT)
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "link.py").symlink_to(folder / "script.py")
    assert "imported" in assert_alike("elsewhere/link.py", cwd=folder).stdout


def test_the_environment_that_a_script_sets_before_it_imports_torch(folder: Path) -> None:
    (folder / "script.py").write_text(
        "import os, sys\nos.environ['OMP_NUM_THREADS'] = '1'\nassert 'torch' not in sys.modules\n"
        "import torch\nprint(torch.get_num_threads(), torch.nn.functional.mse_loss.__code__.co_filename)\n"
        "print(type(torch.__spec__.loader).__name__, torch.__loader__ is torch.__spec__.loader)\n"
    )
    done = run(*FUSESTEP, "script.py", cwd=folder)
    first, second = done.stdout.splitlines()
    assert first.startswith("1 ")
    assert first.endswith("_install.py")
    assert second == "SourceFileLoader True"


def test_a_script_without_torch(folder: Path) -> None:
    (folder / "script.py").write_text("import sys\nprint('torch' in sys.modules)\n")
    done = run(*FUSESTEP, "--report", "script.py", cwd=folder)
    assert done.stdout == "False\n"
    assert done.stderr.startswith("fusestep: 0.000 of ")


def test_the_safe_path_stays(folder: Path) -> None:
    (folder / "script.py").write_text("import sys\nprint(sys.path[0])\n")
    if sys.version_info < (3, 11):
        pytest.skip("Python has no safe path before 3.11")
    assert_alike("script.py", cwd=folder)
    ours = run("-P", *FUSESTEP, "script.py", cwd=folder)
    assert str(folder) not in ours.stdout


def test_spawned_processes_find_the_script(folder: Path) -> None:
    (folder / "script.py").write_text(
        "import multiprocessing\n"
        "def square(x): return x * x\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(square, [1, 2, 3]))\n"
    )
    assert assert_alike("script.py", cwd=folder).stdout == "[1, 4, 9]\n"


# ---- what the user is told ----


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["nowhere.py"], "cannot open script 'nowhere.py': No such file or directory"),
        (["-m", "nowhere"], "no module named 'nowhere' that can be run"),
        (["-m", "os.path.nowhere"], "no module named 'os.path.nowhere' that can be run"),
        (["-m", "package.nothing"], "no module named 'package.nothing' that can be run"),
        (["-m", "broken.train"], "importing the package of 'broken.train' failed: No module named 'missing'"),
        (["-m"], "which module? see fusestep --help"),
        ([], "which script? see fusestep --help"),
        (["--nonsense"], "unknown option --nonsense; see fusestep --help"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_run(folder: Path, command: list[str], message: str) -> None:
    (folder / "package" / "__init__.py").write_text("")
    (folder / "broken").mkdir()
    (folder / "broken" / "__init__.py").write_text("import missing")
    done = run(*FUSESTEP, *command, cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"fusestep: {message}\n")


def test_without_torch(folder: Path) -> None:
    (folder / "script.py").write_text("")
    (folder / "sitecustomize.py").write_text(
        "import sys\nclass NoTorch:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'torch':\n            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
    )
    done = run(*FUSESTEP, "script.py", cwd=folder, PYTHONPATH=f"{folder}:{os.environ.get('PYTHONPATH', '')}")
    assert done.returncode == 2
    assert done.stderr == (
        "fusestep: running a script needs PyTorch, which is not installed: pip install torch\n"
    )


def test_help_and_version() -> None:
    assert "fusestep [--report] script.py" in run(*FUSESTEP, "--help").stdout
    assert run(*FUSESTEP, "--version").stdout.startswith("fusestep ")


def test_the_report_comes_last_whatever_happens(folder: Path) -> None:
    (folder / "script.py").write_text(
        "import atexit, sys, torch\n"
        "atexit.register(print, 'mine', file=sys.stderr)\n"
        "loss = torch.nn.functional.l1_loss\n"
        "for dtype in (torch.float32, torch.complex64):\n"
        "    loss(torch.ones(3, dtype=dtype), torch.zeros(3, dtype=dtype))\n"
        "1 / 0\n"
    )
    done = run(*FUSESTEP, "--report", "script.py", cwd=folder)
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert lines.index("ZeroDivisionError: division by zero") < lines.index("mine")
    after = lines[lines.index("mine") + 1 :]
    assert after[0].startswith("fusestep: 0.")
    assert after[2].split()[:2] == ["l1_loss", "2"]
    assert after[4].split() == ["l1_loss", "1", "1", "dtype:", "1"]
