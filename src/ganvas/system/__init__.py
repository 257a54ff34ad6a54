"""What touches the machine: files, devices, seeds."""
