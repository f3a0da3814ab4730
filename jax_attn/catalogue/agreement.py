"""How far two models' predictions agree, which is what a user of logits asks after a comparison."""

from dataclasses import dataclass

import numpy as np

MOST = 5


@dataclass(frozen=True)
class Agreement:
    """Logits of one model beside those of a reference, over all predictions that they make.

    Attributes:
        divergence: the mean Kullback-Leibler divergence of ours from the reference, in nats.
        top1: the share of predictions whose likeliest class is the same.
        top5: the mean share of the reference's five likeliest classes (or of all, where there are fewer) that are
            among ours.
    """

    divergence: float
    top1: float
    top5: float


def agreement(ours: np.ndarray, reference: np.ndarray) -> Agreement:
    """Compare logits `(..., classes)`.

    >>> agreement(np.array([[0.0, 1.0]]), np.array([[0.0, 1.0]]))
    Agreement(divergence=0.0, top1=1.0, top5=1.0)

    Raises:
        ValueError: the shapes differ, or there are no predictions.
    """
    if ours.shape != reference.shape or not ours.size:
        raise ValueError(
            f"logits must have the same shape and not be empty, got {ours.shape}, {reference.shape}"
        )
    classes = ours.shape[-1]
    log_p, log_q = (_log_softmax(each.reshape(-1, classes)) for each in (reference, ours))
    divergence = float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean())
    tops = [np.argsort(-each, axis=-1, kind="stable")[:, : min(MOST, classes)] for each in (log_q, log_p)]
    same = (tops[0][:, :, None] == tops[1][:, None, :]).any(-2).mean()
    return Agreement(abs(divergence), float((tops[0][:, 0] == tops[1][:, 0]).mean()), float(same))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
