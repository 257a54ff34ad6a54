"""Read image files, archives, lists and labels."""
