"""Every constant that decides a verdict, with its reason.

None grows with the size of an array, and none is absolute: each is relative to a leaf's largest
number, to a dtype's spacing, or to an error that was estimated. They were set by reasoning first,
and then held against the planted bugs and right rules of `tests/planted`: no right rule may be
accused, and no bug missed, by any of them.
"""

from __future__ import annotations

import numpy as np

# ---- rounding, against autodiff

# relative to its leaf's scale, what may differ in float64: rounding alone, where the caller works
# in float64; else also constants that a rule has to single precision only
FLOOR_64, FLOOR_32 = 1e-10, 5e-7
# how often the problem is moved by its rounding: three draws show the typical effect of it
DRAWS = 3
# and by how much more than the largest effect of those draws a right rule may be off: it rounds
# otherwise, and in more places than the arguments
MARGIN = 16.0
# roundings by which two ways to write one value may differ
ROUNDINGS = 64
# of the largest number in a leaf's gradient: an oracle whose own noise is more than this leaves the
# verdict open
NOISY = 1e-2

# ---- kinks

# how far beside the sample point a kink is looked for, relative to each number: far enough that
# rounding does not hide the jump, near enough that nothing else moves by as much
BESIDE, BESIDE_NATIVE = 1e-6, 1e-3
# pairs of such points, on either side: with four, an element's two sides are both met 7 times in 8
PAIRS = 4
# relative to an element's size: sides that differ by more are those of a kink. A smooth gradient
# changes by about BESIDE from one to the other, a thousandth of this
JUMP = 1e-3
# of the jump: what a number may lie outside of its two sides, which are met beside the point and
# not at it
SIDE = 1e-6
# relative to an argument's largest number: elements beside a kink that differ by less are on one
# side of it; among many tied numbers few are met twice, and then to more digits than by chance
ONE_SIDE, MET_AGAIN = 3e-3, 1e-4

# how far beside it the gradient's own derivative is looked at, relative to each argument's scale:
# differences of a gradient lose half of its digits
WIDE_STEP, NATIVE_STEP = 1e-5, 1e-2

# ---- differences of the value

# steps relative to the size of the argument. No ratio of two of them is a whole number: a fast
# periodic function would look smooth at all of them
RATIO = 3.7
STEPS = 0.1 * RATIO ** -np.arange(13.0)
# an error that three extrapolations tell by how far they differ is known to a factor, and not to a
# digit: so many times as much is allowed
ESTIMATE = 10.0
# differences that convict agree among each other to so much of their size: three out of a dozen
# steps over a rough function agree to a tenth by chance, one time in ten
ROUGH, ROUGH_NATIVE = 1e-3, 2e-2
# differences that side with a rule against autodiff agree with it to so much of its size
SAME, SAME_NATIVE = 1e-3, 2e-2
# of the largest number in a leaf's gradient: what would see no smaller error decides nothing
LEAST_POWER = 0.25

# ---- values that are no more exact than something

# a value that is constant in pieces has a slope where its pieces are fine: no more than this part
# of it, as a solver's tolerance or a float's spacing; a coarser one (8 bits) is a step function
FINE = 2e-3
# and only where steps much larger than a piece agree on the slope to this
AGREE = 5e-2
# a large step sees what a small one cannot, where the function takes other paths from point to
# point; within this it is put down to how exact its value is
WOBBLE = 1e-3
# of the change between two steps: a loop whose changes shrink more slowly than this is not said to
# converge, as its last step tells nothing of what is left; sums and time steps do not shrink at all
SLOWEST = 0.9
# less exact than this, relative to its largest number, a value is not that of a solver
LOOSEST = 1e-2

# ---- other dtypes, other orders

# of the error in 64 bits: a rule whose error in the caller's dtypes is below this is right there,
# and not merely unseen
PLAINLY = 0.1
# of its answer: where a second derivative's error is more, it says nothing
BLIND = 0.1
# of the disagreement: where differences of a gradient are less sure of their own number, they do
# not decide between the two
SURE = 0.1
# the steps of those differences, relative to each argument's scale, around WIDE_STEP: a step that
# is good for one function is too large or lost in rounding for another
WIDE_STEPS, NATIVE_STEPS = (1e-4, 1e-5, 1e-6), (1e-2, 2e-3, 4e-4)
# by how much a slope of Taylor's remainders may stay below its order and be that order's
NEAR = 0.3
