"""Planted bugs, and right rules that are easy to accuse: what the checker is tested with.

Each row builds a function and its arguments. A bug names the diagnoses that describe it; a right
rule names none. The rows are data; the checker knows none of them.
"""

from . import calls as calls
from . import dense as dense
from . import elementwise as elementwise
from . import foreign_calls as foreign_calls
from . import harder as harder
from . import kinds_custom as kinds_custom
from . import kinds_hijax as kinds_hijax
from . import kinds_linear as kinds_linear
from . import limits as limits
from . import losses as losses
from . import mathematics as mathematics
from . import mechanisms as mechanisms
from . import nets as nets
from . import right_elementwise as right_elementwise
from . import right_harder as right_harder
from . import right_kinds as right_kinds
from . import right_others as right_others
from . import solvers as solvers
from . import surrogates as surrogates
from . import ties as ties
from . import transforms as transforms
from .row import BUGS as BUGS
from .row import RIGHT as RIGHT
