"""DICOM: series become NIfTI images, and segmentations go back as DICOM SEG objects."""
