"""Files are written whole or not at all."""

import os

import pytest

from kits_unet3d.pipeline.runtime.errors import UsageError
from kits_unet3d.pipeline.runtime.files import write_json


def test_results_do_not_replace_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UsageError, match="is a device or pipe"):
        write_json(tmp_path / "pipe.json", {})
