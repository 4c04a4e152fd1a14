"""LC without training: the loss of each layer is its reconstruction error on calibration inputs."""
