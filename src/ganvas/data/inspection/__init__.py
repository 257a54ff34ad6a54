"""Near duplicates and burned-in marks in a data set."""
