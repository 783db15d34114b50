"""The built-in latent diffusion model, in `diffusers` parts."""
