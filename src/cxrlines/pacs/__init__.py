"""Beside a PACS: a DICOM node with a durable queue, and a folder in, a folder out."""
