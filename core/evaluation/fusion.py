"""Rankings of the same photographs, fused: the weighted sum of their z-scores over the gallery.

Letters: R rankings, N photographs, G choices of weights, Q queries.
"""

from __future__ import annotations

import itertools

import numpy as np

from core.evaluation.retrieval import TOLERANCE, average_precision

STEPS = 10  # of a weight from 0 to 1 in the grid


def z_scores(scores: np.ndarray) -> np.ndarray:
    """Return scores (..., N) with mean 0 and standard deviation 1 over the N photographs; zeros
    where only rounding tells them apart."""
    scores = np.asarray(scores, np.float64)
    centred = scores - scores.mean(-1, keepdims=True)
    spread = scores.std(-1, keepdims=True)
    told_apart = spread > TOLERANCE * np.abs(scores).max(-1, keepdims=True)
    return np.where(told_apart, centred / np.where(told_apart, spread, 1), 0)


def weight_grid(rankings: int) -> np.ndarray:
    """Return all weights of sum 1 in steps of a tenth, the most even first: float64 (G, R)."""
    every = itertools.product(range(STEPS + 1), repeat=rankings)
    grid = np.array([weights for weights in every if sum(weights) == STEPS]) / STEPS
    return grid[np.argsort((grid**2).sum(1), kind="stable")]


def ranks_by_weights(scores: np.ndarray, weights: np.ndarray, answer: int) -> np.ndarray:
    """Return the rank of the right photograph with each choice of weights: int64 (G,), 1 = best;
    ties count against it. scores: float (R, N). weights: float (G, R), of sum 1. answer: its row.
    """
    fused = weights @ z_scores(scores)
    return (fused >= fused[:, answer, None] - TOLERANCE).sum(1)


def best_weights(ranks: np.ndarray) -> int:
    """Return which choice of weights has the highest mAP; of equal ones the first. ranks: int
    (Q, G)."""
    return int(average_precision(ranks).mean(0).argmax())
