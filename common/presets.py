"""Named recipes of train.py: options that take the place of its defaults."""

from typing import Any

# The one that made the published model: docs/recipe.md says what each option earned.
FACES = {
    "ngf": 32,
    "ndf": 48,
    "batch_size": 8,
    "lr_G": 4e-4,
    "lr_D": 8e-4,
    "ema": 0.9999,
    "niter": 400,
    "niter_decay": 0,
}
# Zhu et al. 2017, section 4 and appendix 7; of their nets those for images of 128 pixels and less.
CYCLEGAN = {
    "generator": "resnet",
    "discriminator": "patch",
    "spectral_norm": False,
    "gan_mode": "lsgan",
    "batch_size": 1,
    "lr_G": 2e-4,
    "lr_D": 2e-4,
    "beta1": 0.5,
    "beta2": 0.999,
    "cycle_pool": 1,
    "shift": 0,
    "warm_steps": 0,
    "ema": 0.0,
}
# anime_person_translation (2018), by the defaults of its code: hinge, 100 and 100 epochs of 50,000
# pairs in batches of 64, and no identity loss.
ORIGINAL = {
    "generator": "sagan",
    "lambda_A": 250.0,
    "lambda_B": 250.0,
    "lambda_idt": 0.0,
    "cycle_pool": 1,
    "shift": 0,
    "warm_steps": 0,
    "ema": 0.0,
}
PRESETS: dict[str, dict[str, Any]] = {"faces": FACES, "cyclegan": CYCLEGAN, "original": ORIGINAL}
