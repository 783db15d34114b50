"""The generative model, in the order of a synthesis.

`codec` turns signal into a latent and back; `denoiser` predicts the clean latent from the CT;
`scheduler` says which noise levels are visited; `pipeline` holds the three as one
`diffusers.DiffusionPipeline`. HU are windowed before, in `pipeline.intensity`.
"""
