"""Generating crystals: diffusion and flow models, sampling, metrics."""
