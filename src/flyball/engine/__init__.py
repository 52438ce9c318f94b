"""Engines: prompt tokens in, sampled tokens with their logprobs out, by PyTorch here or by a fake."""
