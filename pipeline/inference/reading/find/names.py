"""What files of images are called, and what their results are called after them."""

from __future__ import annotations

from pathlib import Path

NIFTI = (".nii.gz", ".nii")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")


def ending_of(path: Path) -> str:
    """The ending by which an image's format is known, in lower case; empty if it is none of ours."""
    return next((ending for ending in (*NIFTI, *ITK) if path.name.lower().endswith(ending)), "")


def scan_name(path: Path) -> str:
    """File name without the endings of images; the folder's for KiTS19's ``case_00000/imaging.nii.gz``."""
    path = path.absolute() if path.name not in ("", "..") else path.resolve()
    return path.parent.name if _named_by_folder(path) else stem(path)


def stem(path: Path) -> str:
    """File name without the endings of images."""
    return path.name[: len(path.name) - len(ending_of(path))]


def _named_by_folder(path: Path) -> bool:
    return stem(path) == "imaging"


def folders_of_results(path: Path, folders: tuple[str, ...]) -> tuple[str, ...]:
    """A scan that is named by its folder needs none of that name around its results."""
    return folders[:-1] if _named_by_folder(path) else folders
