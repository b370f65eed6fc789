"""convbench: verify, time and explain convolution operators on this machine.

Importing the package is cheap on purpose: nothing heavy (torch, numba, pandas) is loaded here.
"""

__version__ = "0.1.0"
