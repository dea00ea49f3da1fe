"""How each kind of figure is drawn: matplotlib's object interface on a `Canvas`, and SVG fit for a page."""
