"""Data: random fields, generators of PDE solutions, and the files that hold them."""

from physflow.data import darcy, files, random_fields, validation
from physflow.data.files import FieldReader, FieldWriter, Metadata, open, write
from physflow.data.merging import merge
from physflow.data.validation import Finding, validate

__all__ = [
    "FieldReader",
    "FieldWriter",
    "Finding",
    "Metadata",
    "darcy",
    "files",
    "merge",
    "open",
    "random_fields",
    "validate",
    "validation",
    "write",
]
