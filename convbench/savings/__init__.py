"""What depthwise-separable convolution saves: on paper, by roofline, measured, and why they differ.

A dense R x S convolution with K filters is replaced by a depthwise R x S and a pointwise 1 x 1 one. On
paper that saves the factor 1 / (1/K + 1/(R S)) in multiply-accumulates (Howard et al., MobileNets,
arXiv 1704.04861, Section 3.1). Cases are joined by what they compute (ConvSpec), never by name or order.
"""

from convbench.savings.analysis import analyse, quartets
from convbench.savings.model import Half, Saving

__all__ = ["Half", "Saving", "analyse", "quartets"]
