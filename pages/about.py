"""About: what this is, where it comes from, what it can't do."""

import streamlit as st

from explorer import frame

TEXT = """
## What this is

Much of the data that scientists measure is mostly zero: pixels of a digit, cells of a detector, genes of a cell.
A dense diffusion model gives every one of those zeros a small number and needs a threshold to remove it.
Sparsity-Exploiting Diffusion (SED) never touches them: an encoder turns the non-zero pairs of a sample into a small
latent, a diffusion model learns that latent, and a decoder writes pairs back, one (place, value) pair at a time, in
ascending order, until it chooses to stop. What is not written is zero, exactly.
CountsDiff works on whole numbers: every unit of a count dies on its own, and a model that expects so many missing
brings them back, some at each step. Nothing is rounded in the end.

## Where it comes from

P. Ostheimer, M. Nagda, A. Balinskyy, J. Rodrigues, C. Radig, C. Herrmann, S. Mandt, M. Kloft, S. Fellenz.
*Skipping the Zeros in Diffusion Models for Sparse Data Generation.* ICML 2026,
[arXiv 2605.01817](https://arxiv.org/abs/2605.01817).

Soatto, Hoel, Ren, Alam, Bates, Daskalakis, Uhler, Skoularidou. *CountsDiff: A Diffusion Model on the Natural Numbers for Generation and Imputation of
Count-Based Data.* ICML 2026, [arXiv 2604.03779](https://arxiv.org/abs/2604.03779).

The code here is our own. The papers' own settings are only partly public, so our numbers are not a reproduction of
theirs; each model's page says how ours were measured.

## Limits

* The models are small, made to be seen at work on a laptop; they are not the best there is for any task.
* The map of the latent shows two directions of many. Points that look close need not be.
* A guess on the way is what the model would write if it stopped there; it is not yet a sample.
* The same seed gives the same sample on any machine up to the last digits of floating-point arithmetic. A rare tie
  can turn on such a digit.
* Guidance above 1 trades variety for clarity.

## Privacy

Nothing leaves this machine. The app asks no other server for anything, counts no visits, and keeps no result after
you close the page.

## Accessibility

Every control works from the keyboard. In the player: Space plays and pauses, the arrow keys step, Home and End jump.
With “reduce motion” set in your system nothing moves by itself. Colours were chosen to be told apart with colour-vision
deficiencies, and nothing is said by colour alone. If something is in your way, please open an issue in the repository.

## Licences

The program: Apache-2.0. Each model names its own licence and its data's on the Models page.

## How to cite

Cite the papers above for the methods, and for this program the recipe under each result (it names the model's sha256,
all settings and versions), with “Sparse Diffusion Explorer, version {version}”.
"""  # noqa: E501

frame.heading("About", "The method, its limits, and where it comes from.")
with st.container(width=760):
    st.markdown(TEXT.format(version=frame.version()))
