"""Bad DICOM directories, alone in a batch with a good scan, through the command line; no name gets out."""

import gzip
import json
import struct

import nibabel as nib
import numpy as np
import pytest
from dicoms import write_series, write_slice
from niftis import ct, nifti


def slices():
    return np.ascontiguousarray(ct((8, 14, 10)).transpose(0, 2, 1))


def two_phases(path, clean=True):
    write_series(path, slices(), AcquisitionNumber=1)
    return write_series(path, slices() + 10, AcquisitionNumber=2 if clean else 1)


def unknown_syntax(path):
    write_series(path, slices())
    for file in path.iterdir():
        old, new = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.201\0"
        content = file.read_bytes()
        at = content.index(b"\x02\x00\x10\x00UI") + 8
        assert content[at : at + len(old)] == old
        length = struct.unpack("<I", content[140:144])[0] + len(new) - len(old)
        changed = content[: at - 2] + struct.pack("<H", len(new)) + new + content[at + len(old) :]
        file.write_bytes(changed[:140] + struct.pack("<I", length) + changed[144:])
    return path


def tilted_out_of_line(path):
    write_series(path, slices())
    write_slice(path / "x.dcm", slices()[0], (-10, -50, 10 + 8 * 5))
    return path


ENHANCED = "1.2.840.10008.5.1.4.1.1.2.1"
BAD_DICOM = [
    (18, lambda d: write_series(d / "bad", slices()[:1]), "one slice", None),
    (37, lambda d: write_series(d / "bad", slices(), leave_out=[3]), "missing or uneven", ["--allow-gaps"]),
    (37, lambda d: truncated_slice(write_series(d / "bad", slices())), "damaged", None),
    (38, lambda d: two_series(d / "bad"), "--series", ["--series=2"]),
    (40, lambda d: two_phases(d / "bad"), "--series", ["--series=1.2"]),
    (40, lambda d: two_phases(d / "bad", clean=False), "have the same position", None),
    (41, lambda d: write_series(d / "bad", slices(), ImagePositionPatient=None), "no ImagePositionPatient", None),
    (42, lambda d: tilted_out_of_line(d / "bad"), "not on one line", None),
    (43, lambda d: unknown_syntax(d / "bad"), "transfer syntax 1.2.840.10008.1.2.4.201", None),
    (44, lambda d: write_series(d / "bad", slices(), SOPClassUID=ENHANCED), "Enhanced CT (multi-frame)", None),
    (44, lambda d: write_series(d / "bad", slices(), Modality="MR"), "MR image", None),
]


def truncated_slice(path):
    victim = sorted(path.iterdir())[4]
    victim.write_bytes(victim.read_bytes()[:-200])
    return path


def two_series(path):
    write_series(path, slices(), SeriesDescription="portal")
    return write_series(path, slices()[:6], SeriesInstanceUID="1.2.3.2", SeriesNumber=2, SeriesDescription="late")


@pytest.mark.parametrize(
    ("row", "make", "message", "way_out"), BAD_DICOM, ids=[f"{r[0]}-{i}" for i, r in enumerate(BAD_DICOM)]
)
def test_a_bad_dicom_directory_is_refused_by_name_and_the_others_are_done(
    tmp_path, predict, row, make, message, way_out
):
    code, error, cases = predict(make(tmp_path))
    assert code == 1 and cases["bad"]["outcome"] == "failed"
    assert "bad" in error and message in error and "Traceback" not in error
    assert not any(word in error for word in ("Doe", "Jane", "4711"))
    if way_out:
        code, _, cases = predict(tmp_path / "bad", *way_out, good=False)
        assert code == 0 and cases["bad"]["outcome"] != "failed"


def test_gaps_are_filled_by_interpolation(tmp_path, predict):
    voxels = slices()
    voxels[3] = (voxels[2].astype(int) + voxels[4]) // 2
    write_series(tmp_path / "bad", voxels, leave_out=[3])
    code, _, cases = predict(tmp_path / "bad", "--allow-gaps")
    assert code == 0 and "even grid of 5.00 mm" in " ".join(cases["bad"]["warnings"])
    assert nib.load(tmp_path / "out" / "bad_seg.nii.gz").shape == (14, 10, 8)


def test_all_series_can_be_segmented_each_into_its_own_mask(tmp_path, predict):
    code, _, cases = predict(two_series(tmp_path / "both"), "--series=all")
    assert code == 0 and {"both_series1", "both_series2"} < set(cases)
    assert nib.load(tmp_path / "out" / "both_series2_seg.nii.gz").shape == (14, 10, 6)


def test_a_localizer_is_left_out_and_listed(tmp_path, predict):
    write_series(tmp_path / "ct", slices())
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    write_slice(tmp_path / "ct" / "scout.dcm", slices()[0], (0, 0, 0), **scout)
    code, _, cases = predict(tmp_path / "ct")
    assert code == 0 and "left out: 1 localizer" in cases["ct"]["warnings"]


def test_run_length_encoding_is_decoded(tmp_path, predict):
    from pydicom.uid import RLELossless

    for number, plane in enumerate(slices()):
        write_slice(
            tmp_path / "ct" / f"{number}.dcm", plane, (0, 0, number * 5), change=lambda ds: ds.compress(RLELossless)
        )
    assert predict(tmp_path / "ct")[0] == 0


def damaged(path):
    """Files that end within their voxels."""
    write_series(path, slices())
    for file in path.iterdir():
        file.write_bytes(file.read_bytes()[:-100])
    return path


def named(name, charset="ISO_IR 6", **tags):
    return lambda path: write_series(path, slices(), PatientName=name, SpecificCharacterSet=charset, **tags)


#: A directory's name, how it is filled, and what must not get out.
PERSONAL = [
    ("DOE_JANE", lambda path: write_series(path, slices(), SOPClassUID=ENHANCED), ["doe", "jane"]),
    ("DOE_JANE", lambda path: write_series(path, slices(), Modality="MR"), ["doe", "jane"]),
    ("DOE_JANE", unknown_syntax, ["doe", "jane"]),
    ("DOE_JANE", damaged, ["doe", "jane"]),
    ("DOE_JANE/first", lambda path: write_series(path, slices(), Modality="MR"), ["doe", "jane"]),
    ("Müller_Jürgen", named("Müller^Jürgen", "ISO_IR 100"), ["müller", "jürgen"]),
    ("Müller_Jürgen", named("Müller^Jürgen", "ISO_IR 192"), ["müller", "jürgen"]),
    ("王伟", named("王伟", "GB18030"), ["王", "伟"]),
    ("王伟的CT", named("Wang^Wei=王^伟", "GB18030"), ["王", "伟"]),
    ("WU_LI", named("Wu^Li"), ["wu_", "_li"]),
    ("doe19600402", named("Doe^J", PatientBirthDate="19600402"), ["doe", "1960"]),
    ("ACC778899", named("Doe^J", AccessionNumber="ACC778899"), ["778899"]),
    ("OLD551209", named("Doe^J", OtherPatientIDs="OLD551209"), ["551209"]),  # hashes hold four digits by chance
]


@pytest.mark.parametrize("beside", [True, False], ids=["beside", "alone"])
@pytest.mark.parametrize(("directory", "make", "words"), PERSONAL, ids=[f"{i}-{p[0]}" for i, p in enumerate(PERSONAL)])
def test_directory_names_do_not_disclose_the_patient(tmp_path, predict, directory, make, words, beside):
    make(tmp_path / "in" / directory)
    if beside:
        other = {"PatientName": "Roe^Rick", "PatientID": "P-1", "SeriesInstanceUID": "1.2.3.9"}
        write_series(tmp_path / "in" / "other", slices(), **other)
    _, error, _ = predict(tmp_path / "in")
    report = str(json.loads((tmp_path / "out" / "summary.json").read_text()))
    report += (tmp_path / "out" / "summary.csv").read_text()
    files = " ".join(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
    told = (error + report + files).lower()
    assert not [word for word in words if word in told]


def test_the_list_of_series_contains_no_descriptions(tmp_path, predict):
    write_series(tmp_path / "bad", slices(), SeriesDescription="ID 991122 Roe")
    write_series(tmp_path / "bad", slices(), SeriesInstanceUID="1.2.3.2", SeriesNumber=2)
    _, error, _ = predict(tmp_path / "bad")
    assert "1 (8 slices), 2 (8 slices)" in error and "991122" not in error and "Roe" not in error


def test_patient_names_are_replaced_only_as_whole_words(tmp_path, predict):
    write_series(tmp_path / "in" / "ct", slices(), leave_out=[3], PatientName="Miss^Scan", PatientID="001")
    nifti(tmp_path / "in" / "case_00100.nii.gz")
    nifti(tmp_path / "in" / "scan.nii.gz")
    code, error, cases = predict(tmp_path / "in")
    assert code == 1 and "slices are missing or uneven" in error
    # what a scan is called does not depend on who else is in the batch
    assert {"case_00100", "scan", "ct"} < set(cases)


def text(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("<!DOCTYPE html>", "web page"),
        ("something", "is not DICOM"),
    ],
)
def test_files_other_than_dicom_are_reported_and_the_series_is_kept(tmp_path, predict, content, reason):
    text(write_series(tmp_path / "ct", slices()) / "stray.dcm", content)
    code, _, cases = predict(tmp_path / "ct")
    assert code == 0 and reason in " ".join(cases["ct"]["warnings"])
    for number in range(3):
        text(tmp_path / "lost" / f"{number}.dcm", content)
    code, error, cases = predict(tmp_path / "lost")
    assert code == 1 and reason in cases["lost"]["error"] and "0x" not in error


def test_a_series_number_cannot_lead_outside_the_output_directory(tmp_path, predict):
    write_series(tmp_path / "both", slices())
    raw = write_slice(tmp_path / "raw.dcm", slices()[0], (0, 0, 0), SeriesNumber=1111111111).read_bytes()
    assert raw.count(b"1111111111") == 1
    for number in range(8):
        path = tmp_path / "both" / f"{number}.dcm"
        write_slice(path, slices()[number], (0, 0, 5 * number), SeriesInstanceUID="1.2.9", SeriesNumber=1111111111)
        path.write_bytes(path.read_bytes().replace(b"1111111111", b"../../../e"))
    code, _, cases = predict(tmp_path / "both", "--series=all")
    assert code == 0 and "both_series_________e" in cases
    assert not [path for path in tmp_path.parent.glob("*e_seg.*")]  # a file, not the directory of another test


def test_two_patients_with_one_series_uid_are_two_scans(tmp_path, predict):
    write_series(tmp_path / "in" / "a", slices())
    write_series(tmp_path / "in" / "b", slices(), PatientID="Q-1")
    code, _, cases = predict(tmp_path / "in")
    assert code == 0 and {"a", "b"} < set(cases)


def test_dicom_without_its_mark_is_read(tmp_path, predict):
    for file in write_series(tmp_path / "ct", slices()).iterdir():
        content = file.read_bytes()
        file.rename(file.with_suffix("")).write_bytes(content[132:])
    code, _, cases = predict(tmp_path / "ct")
    assert code == 0 and nib.load(tmp_path / "out" / "ct_seg.nii.gz").shape == (14, 10, 8)


@pytest.mark.parametrize("keep", [False, True])
def test_patient_names_appear_only_with_keep_names(tmp_path, predict, keep, capsys):
    write_series(tmp_path / "in" / "DOE_JANE_P-4711", slices())
    write_series(tmp_path / "in" / "Roe^Rick", slices(), leave_out=[3], SeriesInstanceUID="1.2.3.2")
    code, error, _ = predict(tmp_path / "in", *(["--keep-names"] if keep else []))
    assert code == 1
    report = (tmp_path / "out" / "summary.json").read_text() + (tmp_path / "out" / "summary.csv").read_text()
    files = " ".join(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
    for word in ("doe", "jane", "4711", "rick"):
        assert (word in (error + report + files).lower()) == keep, word


def test_header_texts_do_not_reach_the_mask(tmp_path, predict):
    predict(nifti(tmp_path / "scan.nii.gz", descrip=b"Doe^Jane 1960", db_name=b"4711"))
    assert b"Doe" not in gzip.decompress((tmp_path / "out" / "scan_seg.nii.gz").read_bytes())
