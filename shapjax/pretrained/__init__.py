"""Weights of existing models (Hugging Face, timm, Google, own runs) as the parameters of ours."""
