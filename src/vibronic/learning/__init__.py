"""Training, model folders and the ASE calculator around a model."""
