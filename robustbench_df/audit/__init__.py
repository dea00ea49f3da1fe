"""What makes a number a lie before anyone trains: duplicates, labels, shortcuts, groups. Never imports torch."""
