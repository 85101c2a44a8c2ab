"""What is refused, and what the message says."""

import numpy as np
import pytest

from shapjax.errors import UserError
from shapjax.games import checks


def test_finite_attributions_pass():
    checks.require_finite(np.zeros((2, 3), np.float32), "lime")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_message_names_the_method_the_images_and_their_number(bad):
    attributions = np.zeros((9, 3), np.float32)
    attributions[[1, 4], [0, 2]] = bad
    with pytest.raises(UserError, match=r"of lime are not finite for 2 of 9 images \(rows 1, 4\)"):
        checks.require_finite(attributions, "lime")
    attributions[:] = bad
    with pytest.raises(UserError, match=r"9 of 9 images \(rows 0, 1, 2, 3, 4, …\)"):
        checks.require_finite(attributions, "lime")


def test_attributions_of_every_class_or_pixel_are_refused():
    with pytest.raises(UserError, match=r"shape \(2, 4, 4\), expected \(any, any\): \[images, patches\]"):
        checks.require_finite(np.zeros((2, 4, 4)), "gradient")
