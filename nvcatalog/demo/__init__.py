"""A local NeuroVault and Neurosynth with real records, for the demonstration and the tests.

>>> from nvcatalog.demo import DemoServer
>>> with DemoServer() as server:
...     server.environment["NVCATALOG_NEUROVAULT_URL"].startswith("http://127.0.0.1:")
True
"""

from nvcatalog.demo import faults
from nvcatalog.demo.server import ActiveFault, DemoServer, Hit
from nvcatalog.demo.world import World

__all__ = ["ActiveFault", "DemoServer", "Hit", "World", "faults"]
