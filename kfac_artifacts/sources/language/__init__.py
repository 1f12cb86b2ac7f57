"""Texts for models with a head of language: what is read, and what is predicted."""

from kfac_artifacts.sources.language.encoders import load_language_encoder
from kfac_artifacts.sources.language.packing import PackedExamples, pack_texts

__all__ = ["PackedExamples", "load_language_encoder", "pack_texts"]
