"""Errors are one line for a person, wherever they come from."""

import pytest
from torch.utils.data import DataLoader, Dataset

from kits_unet3d.pipeline.runtime.errors import CaseError, report


class Failing(Dataset):
    """Raise an error as a MONAI transform does, with its cause."""

    def __init__(self, wrapped):
        self.wrapped = wrapped

    def __len__(self):
        return 1

    def __getitem__(self, _):
        try:
            raise CaseError("path/to/a: does not exist;\nrun it again")
        except CaseError as error:
            if self.wrapped:
                raise RuntimeError("applying transform <x>") from error
            raise


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_error_of_a_data_worker_is_reported_without_its_traceback(wrapped, capsys):
    with pytest.raises(Exception, match="Original Traceback") as caught:
        list(DataLoader(Failing(wrapped), num_workers=1))
    assert report(caught.value) == "path/to/a: does not exist; run it again"
    assert capsys.readouterr().err == "error: path/to/a: does not exist; run it again\n"
