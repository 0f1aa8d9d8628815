"""Every hand-written gradient that your code meets, checked while you run what you have.

- `rule`: whose rule it is; `seen`: the values that it meets in a compiled program;
- `entries`: where calls of rules come in; `record`: one of them, and its verdict;
- `watching`: `watch`, the public function; `cli` is the command.
"""

from fnnet.watch.record import Record as Record
from fnnet.watch.watching import Rules as Rules
from fnnet.watch.watching import WrongRuleError as WrongRuleError
from fnnet.watch.watching import watch as watch

__all__ = ["Record", "Rules", "WrongRuleError", "watch"]
