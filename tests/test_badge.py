from xml.etree import ElementTree

import pytest

from featherweight._html import GREEN, GREY, RED
from featherweight.badge import badge, verdict_badge

PASSED = {"passed": True, "n_params": 7704}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((PASSED, 0.9951), "PASS 99.51 %, 7.7k"),
        ((PASSED, None, "7.5 of 8 points"), "PASS 7.5 of 8 points, 7.7k"),
        (({"passed": False, "n_params": 1_240_000}, 0.5), "FAIL 50.00 %, 1.2M"),
        (({"passed": False, "n_params": 978}, None), "FAIL 978"),
        (({"passed": False, "n_params": None}, None), "FAIL"),
        ((None,), "NOT JUDGED"),
    ],
)
def test_a_badge_says_the_verdict(given, text):
    root = ElementTree.fromstring(verdict_badge(*given))
    assert root.get("aria-label") == f"featherweight: {text}"
    assert [each.text for each in root.iter() if each.tag.endswith("}text")] == [
        "featherweight",
        text,
    ]


@pytest.mark.parametrize(("passed", "colour"), [(True, GREEN), (False, RED), (None, GREY)])
def test_its_colour_says_it_too(passed, colour):
    assert f'fill="{colour}"' in badge("text", passed)


def test_any_text_is_well_formed_and_of_one_line():
    root = ElementTree.fromstring(badge('<b a="1">&\n\x1b[1m' + 100 * "x", True))
    assert root.get("aria-label").startswith('featherweight: <b a="1">& \\x1b[1mxx')
    assert len(root.get("aria-label")) < 80


def test_a_longer_text_makes_a_wider_badge():
    widths = [
        int(ElementTree.fromstring(badge(text, True)).get("width")) for text in ("a", "aa", "WW")
    ]
    assert widths[0] < widths[1] < widths[2]
