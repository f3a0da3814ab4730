"""Every tolerance of the project. A test never brings its own looser one.

float64 and dropout lanes: `max|a - b| / max(1, max|b|)` is at most `MODULE`, or `WHOLE_MODEL`.
float32 and bfloat16 lanes: the noise ratio `|jax - torch64| / max(|torch - torch64|, eps * |torch64|)`
(L2 norms) is at most `NOISE_RATIO`: we are no further from the truth than torch is.
"""

MODULE = 1e-12
WHOLE_MODEL = 1e-10
NOISE_RATIO = 2.0

# Two float32 results of one formula, taken in another order or compiled in another way, on values of order 1.
# It ties one form to another that the lanes have proved; a wrong formula shows in float64.
SAME_FLOAT32 = 1e-5

# A tensor this small beside the largest of its kind is one whose true value is zero, such as the gradient
# of a key bias, which softmax cancels. What is left of it is rounding, and is judged against that largest.
ZERO = 1e-12

# A noise ratio above its bound is measured over this many draws of rounding errors before it is believed,
# first over the smaller number: on a single draw, torch may have been lucky.
DRAWS = (4, 16)

# And over this many where it is within the bound in at least this part of those draws: what few of them decide,
# such as the signs of numbers near zero before a ReLU, is not known from 16.
RARE_DRAWS = 64
RARE = 0.25

# Training: what an optimizer makes of given gradients (clipped gradients, moments, updates), as a part of the
# tensor's largest value. Moments forget, so 20 steps are no further apart than one.
UPDATE = 1e-9

# Two free runs of training may be this many times as far apart as two of torch that differ by roundings.
DRIFT = 10.0
