"""Cross-entropy over a large vocabulary without ever holding all logits.

The head is applied to a few rows at a time; their gradient is computed at once, in the forward
pass, while the logits exist. The idea is old (fused linear cross-entropy; Cut Your Losses, ICLR
2025); `torch.nn.functional.linear_cross_entropy` without options keeps all logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MIN_ROWS = 256
CHUNK_LOGITS = 1 << 23
"""Logits held at a time, as far as `MIN_ROWS` allows: 32 MiB in float32."""


def rows_per_chunk(vocab: int) -> int:
    """Tokens whose logits exist together."""
    return max(MIN_ROWS, CHUNK_LOGITS // vocab)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of ``hidden @ weight.T`` against targets; see `chunked_cross_entropy`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, vocab: int, with_grad: bool
    ) -> Tensor:
        head = weight.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if with_grad else None
        grad_weight = torch.zeros_like(weight) if with_grad else None
        count, rows = hidden.shape[0], rows_per_chunk(weight.shape[0])
        for begin in range(0, count, rows):
            piece, target = hidden[begin : begin + rows], targets[begin : begin + rows, None]
            logits = (piece @ head.t()).float()
            if vocab < weight.shape[0]:
                logits[:, vocab:] = float("-inf")
            normaliser = logits.logsumexp(dim=-1, keepdim=True)
            total += (normaliser - logits.gather(-1, target)).sum()
            if grad_hidden is None or grad_weight is None:
                continue
            # Softmax minus one-hot, in place of the logits.
            error = logits.sub_(normaliser).exp_()
            error.scatter_add_(-1, target, torch.full_like(target, -1, dtype=error.dtype))
            error = error.div_(count).to(hidden.dtype)
            grad_hidden[begin : begin + rows] = error @ head
            if error.dtype == grad_weight.dtype:
                grad_weight.addmm_(error.t(), piece)
            else:
                grad_weight += error.t() @ piece
        if grad_hidden is not None and grad_weight is not None:
            ctx.save_for_backward(grad_hidden, grad_weight)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grads[0]
        return grad_hidden * scale.to(grad_hidden.dtype), grad_weight * scale, None, None, None


class TokenLosses(torch.autograd.Function):
    """Cross-entropy of each row under a head that is not trained; see `token_losses`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, vocab: int, with_grad: bool
    ) -> Tensor:
        head = weight.to(hidden.dtype)
        losses = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if with_grad else None
        rows = rows_per_chunk(weight.shape[0])
        for begin in range(0, hidden.shape[0], rows):
            piece, target = hidden[begin : begin + rows], targets[begin : begin + rows, None]
            logits = (piece @ head.t()).float()
            if vocab < weight.shape[0]:
                logits[:, vocab:] = float("-inf")
            normaliser = logits.logsumexp(dim=-1, keepdim=True)
            losses[begin : begin + rows] = (normaliser - logits.gather(-1, target)).squeeze(-1)
            if grad_hidden is not None:
                error = logits.sub_(normaliser).exp_()
                error.scatter_add_(-1, target, torch.full_like(target, -1, dtype=error.dtype))
                grad_hidden[begin : begin + rows] = error.to(hidden.dtype) @ head
        if grad_hidden is not None:
            ctx.save_for_backward(grad_hidden)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        # A row's loss depends on that row alone, so its gradient is only scaled.
        (grad_hidden,) = ctx.saved_tensors
        return grad_hidden * grads[0][:, None].to(grad_hidden.dtype), None, None, None, None


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, vocab: int) -> Tensor:
    """Cross-entropy in nats of every token, float32 (tokens,), without holding all logits.

    Arguments as of `chunked_cross_entropy`; `weight` gets no gradient.
    """
    with_grad = torch.is_grad_enabled() and hidden.requires_grad
    losses: Tensor = TokenLosses.apply(hidden, weight.detach(), targets, vocab, with_grad)  # type: ignore[no-untyped-call]
    return losses


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, vocab: int) -> Tensor:
    """Mean cross-entropy in nats.

    hidden (tokens, width) in the dtype of activations, weight (padded vocabulary, width) in
    float32, targets (tokens,) int64; rows of `weight` from `vocab` on are padding.
    """
    loss: Tensor = ChunkedCrossEntropy.apply(hidden, weight, targets, vocab, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return loss
