"""What embeddings of texts are compared as: unit vectors, centred and whitened on the training texts."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

# What is added to each eigenvalue before whitening, in units of their mean: directions in which texts hardly differ
# would otherwise be blown up to noise.
EIGENVALUE_FLOOR = 0.01


def l2_normalize(embeds: torch.Tensor) -> torch.Tensor:
    """Unit vectors along the last axis, computed in float32: bfloat16 keeps only 3 digits of a norm."""
    return F.normalize(embeds.float(), dim=-1).to(embeds.dtype)


class TargetSpace(nn.Module):
    """Pooled embeddings of the text encoder (B, D) -> unit targets (B, D).

    kind: "embedding" only normalises. "centered" first takes the mean of the training texts away, because embeddings
    of different texts are nearly equal without it. "whitened" then also makes the training texts vary equally in all
    directions. `fit` measures mean and whitening, which are saved with the model.
    """

    mean: torch.Tensor
    whitening: torch.Tensor

    def __init__(self, kind: str, width: int):
        super().__init__()
        self.kind = kind
        if kind != "embedding":
            self.register_buffer("mean", torch.zeros(width))
        if kind == "whitened":
            self.register_buffer("whitening", torch.eye(width))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        if self.kind == "embedding":
            return l2_normalize(pooled)
        # Autocast would compute the product in bfloat16.
        with torch.autocast(pooled.device.type, enabled=False):
            centered = pooled.float() - self.mean.to(pooled.device).float()
            if self.kind == "whitened":
                centered = centered @ self.whitening.to(pooled.device).float()
            return l2_normalize(centered).to(pooled.dtype)

    @property
    def is_fitted(self) -> bool:
        return self.kind == "embedding" or bool(self.mean.any())

    @torch.no_grad()
    def fit(self, batches: Iterable[torch.Tensor]) -> None:
        """Measures the mean and, from the covariance C, the whitening C^(-1/2) of embeddings (N, D) in `batches`.

        Without any they stay as they are. They are computed in float64, on the CPU: Apple's devices have none.
        """
        if self.kind == "embedding":
            return
        width = len(self.mean)
        count = 0
        total, products = torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
        for batch in batches:
            pooled = batch.cpu().double()  # (N, D)
            count += len(pooled)
            total += pooled.sum(dim=0)
            products += pooled.T @ pooled
        if not count:
            return
        mean = total / count  # (D,)
        covariance = products / count - mean.outer(mean)  # (D, D)
        self.mean.copy_(mean.float())
        if self.kind == "whitened" and covariance.any():
            values, vectors = torch.linalg.eigh(covariance)
            values = values.clamp(min=0) + EIGENVALUE_FLOOR * values.mean()
            self.whitening.copy_((vectors * values.rsqrt() @ vectors.T).float())
