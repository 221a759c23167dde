"""Thresholds of the preparation of pictures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the preparation of pictures.

    All were chosen on pictures made from validation images, and on photographs and scans that
    people of public projects made themselves (docs/experiments.md). Strengths are fractions of the
    way from the paper to the farther end of the range (black on light paper), or of full ink.
    """

    plain_difference: float = 1.5
    """Largest difference of a pixel from the border's median colour, in grey levels of 255, that
    counts as equal. A drawing made by a program has one paper colour; rounding moves it by one."""
    plain_fraction: float = 0.4
    """Fraction of such pixels above which the paper has one colour. A photograph has noise, and
    fewer of its pixels agree; a large digit covers up to about half of a drawing."""
    stroke_span: float = 0.17
    """Half the side of the square of opening and closing, relative to the longer side. Strokes
    narrower than a third of the picture are removed from the paper; shadows, which are wider, are
    not."""
    narrow_span: float = 0.07
    """The same where there are shades that this square keeps as ink: strokes narrower than a
    seventh of the picture remain."""
    uneven_light: float = 10.0
    """Grey levels that speak against a paper, above which light that falls off across it is tried:
    the paper's standard deviation and its distance from the border."""
    light_cost: float = 0.3
    """What speaks against light that falls off, relative to its standard deviation."""
    min_contrast: float = 0.04
    """Least strength of ink. It is 10 grey levels on white paper; less is paper texture."""
    noise_deviations: float = 4.0
    """Least strength of ink in standard deviations of the noise. Normal noise exceeds 4 in about 8
    pixels of 512 x 512."""
    uneven: float = 1.5
    """Most strength of full ink, relative to the strength that half of the ink exceeds. With an
    even pen the two are alike."""
    min_typical: float = 0.15
    """Least strength, relative to the strongest ink, of what that half is taken of."""
    min_low: float = 0.1
    """Least strength, relative to full ink, at which a soft edge begins. Scanned edges fade out
    below it."""
    low_deviations: float = 3.0
    """The same in standard deviations of the noise, for noisy pictures."""
    max_low: float = 0.5
    """Start of a soft edge above which the picture is noise: half of full ink would then be
    indistinguishable from paper."""
    component: float = 0.3
    """Least strength of a connected component's pixels, relative to full ink. At this level strokes
    hold together and the halos of neighbouring digits do not touch."""
    inner_mass: float = 0.0005
    """Least summed strength, relative to the picture's pixels at full ink, of a component that
    others are compared with. It keeps specks from deciding what a shadow is."""
    shadow_strength: float = 0.5
    """Mean strength, relative to the strongest component inside the picture, below which a
    component at the border is what is left of a shadow. A stroke that is cut off by the border has
    the strength of the others."""
    deep_strength: float = 0.6
    """Strength, relative to full ink, that at least one pixel of a stroke has. The pixels of a
    stain or of a shadow's rest are all weaker."""
    min_rest: float = 0.08
    """Least longer side of the largest component without what surrounds the writing, relative to
    the longer side with it. What is left of a digit that was taken for surroundings is shorter."""
    min_mass: float = 0.03
    """Least summed strength of a component, relative to the heaviest. Smaller ones are dust; the
    loose bar of a 5 is heavier."""
    doubtful_mass: float = 0.1
    """The same for a component that is too pale to be a stroke, above which leaving it out is
    doubtful."""
    doubtful_low: float = 0.35
    """Start of a soft edge, relative to full ink, above which noise makes the ink doubtful."""
    min_side: float = 0.025
    """Least longer side of the ink, relative to the picture's longer side, and twice the least of
    its largest component."""
    min_side_pixels: int = 5
    """The same in pixels, for small pictures. Smaller ink has no shape that could be read."""
    min_edge: float = 0.15
    """Least difference over 3 pixels, relative to full ink, somewhere in the picture. A shade
    changes more slowly than any stroke, even a blurred one."""
    min_shaded_side: int = 64
    """Shorter side in pixels from which shades are looked for. In smaller pictures strokes have no
    sharp edges either."""
    shade_softness: float = 0.28
    """Strength a hundredth of the picture outside of a component, relative to that inside, above
    which it is a shade. Out of focus, strokes reach 0.25."""
    wide_share: float = 0.2
    """Share of a component's pixels that lie a hundredth of the picture inside of it, above which
    it is wide."""
    shade_rise: float = 0.6
    """Difference of strength from that depth to as far outside, relative to the component's mean,
    below which a wide component is a shade. Out of focus, strokes rise by 0.7."""
    dark: float = 0.6
    """Mean strength of a component from which it may be far out of focus. A shadow that takes a
    third of the light has less."""
    dark_rise: float = 0.38
    """The least rise of such a component."""
    tip_softness: float = 0.55
    """The same before what is wide was taken for paper, which leaves the tip of a shade."""
    step_contrast: float = 2.5
    """Difference of grey levels between a component and what is around it, in standard deviations
    of what is around it, below which it is the edge of a shadow or a fold."""
    beside_contrast: float = 0.3
    """Difference of grey levels between a component and the darker side of what is around it,
    relative to the largest possible one, from which it is ink for all that."""
    fold_contrast: float = 5.0
    """The same for a component that goes from border to border."""
    min_signal: float = 5.0
    """Least ratio of full ink to the root mean square of what is outside the ink. In pure noise the
    outside is nearly as strong as the supposed ink."""
    small: float = 0.06
    """Longer side of the largest component, relative to the picture's, below which the components
    may be the grain of rough paper."""
    min_signal_small: float = 10.0
    """The same ratio for such components. Of many grains some are much darker than the others."""
    min_height: float = 0.6
    """Least height of a digit of a number, relative to the tallest. A loose stroke is shorter."""
    min_digit_mass: float = 0.1
    """Least ink of a digit of a number, relative to the heaviest. A loose stroke has less."""
    min_number: float = 0.03
    """Least height of the tallest digit of a number, relative to the picture's longer side. Dots
    that cover a whole sheet are shorter."""
    min_number_pixels: int = 8
    """The same in pixels, for small pictures."""


THRESHOLDS = Thresholds()
