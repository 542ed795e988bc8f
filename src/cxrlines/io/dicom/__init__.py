"""DICOM files decoded to what a viewer shows."""
