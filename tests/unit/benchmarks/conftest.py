"""Makes `benchmarks` importable, which is no part of the package: it lies at the repository's root."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3]))
