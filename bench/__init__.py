"""The speed of every loss and optimizer of the registry, next to torch's: ``python -m bench --help``.

What is measured: ``cases.py``; what is asked for: ``targets.py``. A case holds our result against float64
(``check.py``), then times ours and torch's in turns in one process (``measure.py``).
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The operands, the definitions and the tolerance of the tests.
sys.path.insert(0, str(ROOT / "tests"))
