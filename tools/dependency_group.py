"""Print the requirements of a dependency group of pyproject.toml, one a line (pip < 25.1 cannot)."""

import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    print("\n".join(groups[sys.argv[1]]))
