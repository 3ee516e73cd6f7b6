"""What is wrong with pairs of fields, whoever made them."""

from physflow.data.auditing.auditor import Audit, audit
from physflow.data.auditing.faults import Fault
from physflow.data.auditing.repair import repair

__all__ = ["Audit", "Fault", "audit", "repair"]
