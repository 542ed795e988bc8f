"""DICOM radiographs as a viewer shows them: `decode.decode_dicom` (bytes to Film), `bytes_of` (a pydicom Dataset).

`header` reads elements, `pixels` decodes (with `streams` for JPEG syntax and `native` for GDCM and OpenJPEG in a
process of their own), `display` applies LUTs and windows. Importing this package imports none of them.
"""
