"""Select, hold out and decode images into a pack."""
