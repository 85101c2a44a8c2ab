"""Unmeasured. Your own photographs with a ViT-B/16 from ImageNet, which learns their classes; 196 patches.

  pip install huggingface_hub                          # or give a directory instead of the name, see docs/models.md
  python train.py --config configs/finetune_vit.py --workdir runs/own_b16 --config.dataset=folder:PATH

Weights of another ViT, DeiT, DINOv2 or SigLIP: --config.pretrained=NAME. For one GPU: 2 000 steps of 32 images are
14e15 operations, minutes on an H100. Calculated.
"""

import ml_collections

from shapjax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.pretrained = "google/vit-base-patch16-224"
    config.new_head = True
    config.dataset = "folder:photos"
    config.data.image_size = 224
    config.data.threads = 8
    config.model.variant = "B/16"
    config.model.dtype = "bfloat16"
    config.augment.max_shift = 0
    config.augment.flip = True
    config.augment.crop_area = 0.35
    config.optim.learning_rate = 1e-4  # a twentieth of what is usual from scratch
    config.optim.b2 = 0.999
    config.optim.batch_size = 32
    config.optim.steps = 2_000
    config.run.eval_every = 250
    return config
