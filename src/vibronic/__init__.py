"""Vibronic: physics-informed learning for molecules and crystals."""

__version__ = "0.1.0"
