"""One table of all methods on one data set: zeros, quality and cost, in one run.

samples      of every checkpoint equally many, from the same seeds, asked for the same classes
threshold    dense samples once more, cut at a value fitted on other samples and training rows
test data    what all are compared with
floor        as many training rows as samples: what a perfect model would get
"""

from sed_core.comparison.aims import Aim, Data, aim_at, digit_aim, shower_aim
from sed_core.comparison.figures import measure
from sed_core.comparison.peers import Peer, Plan, load_peer, samples
from sed_core.comparison.run import compare
from sed_core.comparison.table import COLUMNS, Column, files_of, markdown, write_table

__all__ = [
    "COLUMNS",
    "Aim",
    "Column",
    "Data",
    "Peer",
    "Plan",
    "aim_at",
    "compare",
    "digit_aim",
    "files_of",
    "load_peer",
    "markdown",
    "measure",
    "samples",
    "shower_aim",
    "write_table",
]
