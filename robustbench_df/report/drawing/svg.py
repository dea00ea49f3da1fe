"""Make matplotlib's SVG suitable for inlining: small, themed, and without what a strict content policy blocks."""

from __future__ import annotations

import re
from xml.etree import ElementTree

INK = "#1d2127"
"""Colour of text and axes in a drawing; in the page it becomes ``currentColor`` and follows the theme."""

FONT_SIZE = 10.5
"""Font size of most text in a drawing in pixels; it is written once on the root, not on every label."""

_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"#([\w.-]+)")
_DROPPED = ("metadata", "style")


def slim(source: str, prefix: str, label: str) -> str:
    """Return a drawing as an inline ``<svg role="img">``.

    Style attributes become presentation attributes, because a content policy with hashes blocks the former. Ids get
    ``prefix``, and are kept only if something refers to them. Metadata and invisible shapes are removed. Coordinates
    are rounded to one decimal.

    Args:
        source: the output of matplotlib's SVG backend.
        prefix: unique in the page, so that no drawing refers to another's clip paths.
        label: the text alternative.
    """
    root = ElementTree.fromstring(source)
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        node.attrib = {name.rpartition("}")[2]: value for name, value in node.attrib.items()}
        _present(node)
    wanted = {name for node in root.iter() for key, value in node.attrib.items() for name in _refs(key, value)}
    body = [child for node in root for child in _simplified(node, prefix, wanted)]
    box = " ".join(_round(root.attrib["viewBox"]).split())
    width, height = box.split()[2:]
    page = ElementTree.Element(
        "svg",
        {
            "class": "plot",
            "role": "img",
            "aria-label": label,
            "viewBox": box,
            "width": width,
            "height": height,
            "font-size": str(FONT_SIZE),
            "fill": "currentColor",
            "stroke-linejoin": "round",
        },
    )
    page.extend(body)
    return ElementTree.tostring(page, encoding="unicode")


def _refs(key: str, value: str) -> list[str]:
    return _REFERENCE.findall(value) if key == "href" or value.startswith("url(#") else []


def _present(node: ElementTree.Element) -> None:
    """Turn ``style`` into attributes and leave out defaults."""
    for name, value in (item.split(":", 1) for item in node.attrib.pop("style", "").split(";") if ":" in item):
        node.set(name.strip(), value.strip())
    node.attrib.pop("font-family", None)
    if node.get("font-size", "").removesuffix("px") == str(FONT_SIZE):
        del node.attrib["font-size"]
    if "rotate(-0 " in node.get("transform", ""):
        del node.attrib["transform"]
    for name in ("fill", "stroke"):
        if node.get(name) == INK:
            node.set(name, "currentColor")
    if node.tag == "text" and node.get("fill") == "currentColor":
        del node.attrib["fill"]
    if node.get("stroke-linejoin") == "miter":
        del node.attrib["stroke-linejoin"]
    for name in ("d", "x", "y", "transform", "points", "font-size", "stroke-width", "stroke-dasharray"):
        if name in node.attrib:
            node.set(name, _tight(node.attrib[name]) if name == "d" else _round(node.attrib[name]))


def _simplified(node: ElementTree.Element, prefix: str, wanted: set[str]) -> list[ElementTree.Element]:
    """Return the replacement of ``node``: nothing, itself, or the children of a group without attributes."""
    if node.tag in _DROPPED or _invisible(node):
        return []
    name = node.attrib.pop("id", None)
    if name in wanted:
        node.set("id", f"{prefix}-{name}")
    for key, value in node.attrib.items():
        if _refs(key, value):
            node.set(key, _REFERENCE.sub(rf"#{prefix}-\1", value))
    children = [kept for child in node for kept in _simplified(child, prefix, wanted)]
    if node.tag in ("g", "defs") and (not children or (node.tag == "g" and not node.attrib)):
        return children
    text, attributes = node.text, dict(node.attrib)
    node.clear()
    node.attrib.update(attributes)
    node.text = text if node.tag == "text" else None
    node.extend(children)
    return [node]


def _invisible(node: ElementTree.Element) -> bool:
    return node.tag == "path" and node.get("fill") == "none" and node.get("stroke", "none") == "none"


def _round(text: str) -> str:
    return _NUMBER.sub(lambda found: f"{round(float(found[0]), 1) + 0.0:g}", text)


def _tight(path: str) -> str:
    """Shorten path data: one decimal, no blanks around commands, no repeated ``L``."""
    text = " ".join(_round(path).split())
    text = re.sub(r" ?([A-Za-z]) ?", r"\1", text)
    # Further coordinates after those of M are implicit line commands, so their L can be dropped.
    return re.sub(r"(M[^A-Za-z]+)((?:L[^A-Za-z]+)+)", lambda m: m[1] + m[2].replace("L", " "), text)
