"""Oxford-IIIT Pet: 37 breeds, 3 680 photographs to train on, 3 669 to test, with masks of the animals; 196 patches.

  python -m shapjax.data.prepare oxford_iiit_pet
  python train.py --config configs/oxford_iiit_pet.py --workdir runs/pet
  python eval.py  --checkpoint runs/pet                 # the masks give the localization metrics

For one GPU or TPU chip: 300 epochs. Too few images to train well on from scratch. Not run yet: no figures.
"""

import ml_collections

from shapjax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.dataset = "tfds:oxford_iiit_pet"
    config.data.image_size = 224
    config.data.threads = 16
    config.model.variant = "Ti/16"
    config.model.dtype = "bfloat16"
    config.augment.max_shift = 0
    config.augment.flip = True
    config.augment.crop_area = 0.35
    config.augment.rand_augment = 2
    config.augment.mixup = 0.2
    config.learning_rate = 1e-3
    config.b2 = 0.999
    config.batch_size = 128
    config.steps = 8_600  # 300 epochs
    config.eval_every = 430
    config.ema_decay = 0.999
    return config
