"""Data: random fields, generators of PDE solutions, the files that hold them, and toys with exact answers."""

from physflow.data import darcy, files, random_fields, toys, validation
from physflow.data.auditing import Audit, Fault, audit, repair
from physflow.data.files import FieldReader, FieldWriter, Metadata, write
from physflow.data.layouts import open
from physflow.data.merging import merge
from physflow.data.validation import Finding, validate

__all__ = [
    "Audit",
    "Fault",
    "FieldReader",
    "FieldWriter",
    "Finding",
    "Metadata",
    "audit",
    "darcy",
    "files",
    "merge",
    "open",
    "random_fields",
    "repair",
    "toys",
    "validate",
    "validation",
    "write",
]
