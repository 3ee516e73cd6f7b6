"""Fields from elsewhere: the layouts in which others store their Darcy pairs, and any gridded data."""

from physflow.data.layouts.layout import Layout
from physflow.data.layouts.opening import LAYOUTS, open

__all__ = ["LAYOUTS", "Layout", "open"]
