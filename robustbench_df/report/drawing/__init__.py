"""Drawing code per kind of figure: matplotlib's object interface on a `Canvas`, and SVG that can be put into a page."""
