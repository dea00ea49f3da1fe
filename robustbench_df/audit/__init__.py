"""Checks before training for what makes scores misleading: copies, labels, shortcuts, groups. No torch at start-up."""
