"""What can be done with a trained generator: recipes of pictures, mixing, morphing, directions, projection."""
