"""The kinds of folders that ``hstf import`` reads."""

KINDS = {
    "acdc": "ACDC: training/patient001/patient001_frame01.nii.gz",
    "brats": "BraTS 2018 to 2024, or task 1 of the decathlon",
    "lits": "LiTS: volume-0.nii, segmentation-0.nii",
    "msd": "a task of the Medical Segmentation Decathlon: dataset.json, 3D or 4D",
    "nnunet": "nnU-Net: imagesTr/case_0000.nii.gz, labelsTr, imagesTs, dataset.json",
    "folder": "images and labels matched by name",
    "bids": "BIDS with segmentations in derivatives",
}
