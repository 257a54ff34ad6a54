"""What can be done with a trained generator: recipes of images, mixing, morphing, directions, projection."""
