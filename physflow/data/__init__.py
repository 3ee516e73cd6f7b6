"""Data: random fields, generators of PDE solutions, the files that hold them, and toys with exact answers."""

from physflow.data import (
    burgers,
    darcy,
    files,
    gray_scott,
    heat,
    images,
    navier_stokes,
    poisson,
    random_fields,
    toys,
    validation,
)
from physflow.data.auditing import Audit, Fault, audit, repair
from physflow.data.files import FieldReader, FieldWriter, Metadata, write
from physflow.data.layouts import open
from physflow.data.merging import merge
from physflow.data.solved import Problem, generate
from physflow.data.validation import Finding, validate

__all__ = [
    "Audit",
    "Fault",
    "FieldReader",
    "FieldWriter",
    "Finding",
    "Metadata",
    "Problem",
    "audit",
    "burgers",
    "darcy",
    "files",
    "generate",
    "gray_scott",
    "heat",
    "images",
    "merge",
    "navier_stokes",
    "open",
    "poisson",
    "random_fields",
    "repair",
    "toys",
    "validate",
    "validation",
    "write",
]
