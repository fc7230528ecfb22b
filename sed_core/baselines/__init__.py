"""Peers: of SED, the same diffusion on another representation of the data; and of CountsDiff.

DDPM            every value of the data, zeros included
SparsityBits    every value, and a bit beside it that says whether it is zero
LDM             a latent of a dense autoencoder
threshold       what a dense sample is cut off at to get zeros back

LogGaussian      DDPM on the logarithm of counts, rounded in the end
GatedLogGaussian the same, where the network is narrower than the data
MaskedDiffusion  counts as classes that noise hides
NegativeBinomialVAE  a latent, and counts around its means
Independent      genes drawn one by one from a law for each type: the floor of cells
"""

from sed_core.baselines.bits import SparsityBits
from sed_core.baselines.ddpm import DDPM, DDPMConfig
from sed_core.baselines.gated import GatedLogGaussian
from sed_core.baselines.independent import Independent
from sed_core.baselines.ldm import LDM, AutoencoderConfig
from sed_core.baselines.log_gaussian import LogGaussian
from sed_core.baselines.masked import MaskedConfig, MaskedDiffusion
from sed_core.baselines.nbvae import NBVAEConfig, NegativeBinomialVAE
from sed_core.baselines.sarm import SARM, SARMConfig
from sed_core.baselines.threshold import Rule, cut, fit_threshold
from sed_core.baselines.values import DenseValues

__all__ = [
    "DDPM",
    "LDM",
    "SARM",
    "AutoencoderConfig",
    "DDPMConfig",
    "DenseValues",
    "GatedLogGaussian",
    "Independent",
    "LogGaussian",
    "MaskedConfig",
    "MaskedDiffusion",
    "NBVAEConfig",
    "NegativeBinomialVAE",
    "Rule",
    "SARMConfig",
    "SparsityBits",
    "cut",
    "fit_threshold",
]
