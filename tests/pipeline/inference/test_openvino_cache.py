"""Networks that OpenVINO compiled are kept for the next run, unless they are damaged or not the user's own."""

import os

import pytest
import torch

from kits_unet3d.networks import UNet3D


def test_a_cached_network_with_a_flipped_bit_is_made_again(tmp_path, monkeypatch, caplog):
    pytest.importorskip("openvino")
    from kits_unet3d.pipeline.device import resolve
    from kits_unet3d.pipeline.inference.backends import make_backend
    from kits_unet3d.pipeline.inference.openvino import cache_directory

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network, window = UNet3D(channels=(2, 4)).eval(), torch.rand(1, 1, 16, 16, 16)
    expected = make_backend("openvino", network, resolve("cpu"), window.shape)(window)
    (blob,) = cache_directory().glob("*.blob")
    spoilt = bytearray(blob.read_bytes())
    spoilt[-1000] ^= 64
    blob.write_bytes(spoilt)
    torch.testing.assert_close(make_backend("openvino", network, resolve("cpu"), window.shape)(window), expected)
    assert blob.read_bytes() != spoilt
    blob.parent.chmod(0o777)
    blob.write_bytes(b"planted by another user")
    torch.testing.assert_close(make_backend("openvino", network, resolve("cpu"), window.shape)(window), expected)
    assert blob.read_bytes() == b"planted by another user" and "another user can write it" in caplog.text
    blob.parent.chmod(0o700)
    if os.getuid() == 0:
        os.chown(blob, 12345, -1)
        make_backend("openvino", network, resolve("cpu"), window.shape)
        assert blob.read_bytes() != b"planted by another user" and blob.stat().st_uid == 0
