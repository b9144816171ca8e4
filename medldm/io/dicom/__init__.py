"""DICOM files in and out. LPS and RAS meet here and nowhere else."""
