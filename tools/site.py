"""What the site needs beside its pages: pictures of the benchmark, and docstrings without roles of Sphinx.

Build it with ``make site``; hooks and extension are named in mkdocs.yml.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ROLE = re.compile(r":\w+:`~?([^`]+)`")
LITERAL = re.compile(r"^::\n|(?<=\S):(?=:$)", re.M)  # Markdown knows what is indented without being told


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pictures that lie beside the figures they were drawn from."""
    for path in sorted((ROOT / "bench" / "results").glob("*/*.png")):
        where = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, where, abs_src_path=str(path)))
    return files


class Roles(griffe.Extension):
    """``:func:`x``` becomes ``x``, and ``::`` before an example a colon or nothing."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = LITERAL.sub("", ROLE.sub(r"`\1`", obj.docstring.value))
