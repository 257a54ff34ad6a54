"""Tools for a trained generator: recipes of images, style mixing, morphing, edit directions, projection."""
