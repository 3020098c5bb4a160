"""Facts about elements that ASE does not hold."""

import numpy as np

# Pauling electronegativities, H to Lr (CRC Handbook of Chemistry and Physics, 97th ed., p. 9-103); 0 where none.
_PAULING = """
2.20 0
0.98 1.57 2.04 2.55 3.04 3.44 3.98 0
0.93 1.31 1.61 1.90 2.19 2.58 3.16 0
0.82 1.00 1.36 1.54 1.63 1.66 1.55 1.83 1.88 1.91 1.90 1.65 1.81 2.01 2.18 2.55 2.96 3.00
0.82 0.95 1.22 1.33 1.60 2.16 1.90 2.20 2.28 2.20 1.93 1.69 1.78 1.96 2.05 2.10 2.66 2.60
0.79 0.89 1.10 1.12 1.13 1.14 1.13 1.17 1.20 1.20 1.10 1.22 1.23 1.24 1.25 1.10 1.27
1.30 1.50 2.36 1.90 2.20 2.20 2.28 2.54 2.00 1.62 1.87 2.02 2.00 2.20 2.20
0.70 0.90 1.10 1.30 1.50 1.38 1.36 1.28 1.30 1.30 1.30 1.30 1.30 1.30 1.30 1.30 1.30
"""

ELECTRONEGATIVITY = np.array([0.0, *map(float, _PAULING.split())])
"""Pauling electronegativity by atomic number."""
