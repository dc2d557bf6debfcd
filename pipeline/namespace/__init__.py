"""Segment kidneys and kidney tumours in CT.

setup.cfg installs this module as ``kits_unet3d``, above ``transforms``, ``networks`` and ``pipeline``.
"""

from importlib.metadata import version

__version__ = version("kits-unet3d")
