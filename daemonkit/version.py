"""The version of all programs of this distribution.

A constant and no look-up of installed metadata: it also holds in a source tree nobody installed, and costs no import time.
A test keeps it equal to the one in pyproject.toml.
"""

VERSION = "0.1.0"
