"""Texts for models with a head of language: what is read, and what is predicted."""

from kfac_artifacts.sources.language.encoders import load_language_encoder

__all__ = ["load_language_encoder"]
