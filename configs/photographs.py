"""Unmeasured. Photographs from scratch with a ViT-Ti/16: Imagenette, or the Oxford-IIIT pets with masks of the animals.

  python -m shapjax prepare imagenette/160px-v2
  python train.py --config configs/photographs.py      --workdir runs/imagenette   # 9 469 images, 100 patches
  python -m shapjax prepare oxford_iiit_pet
  python train.py --config configs/photographs.py:pets --workdir runs/pets         # 3 680 images, 196 patches
  python eval.py  --checkpoint runs/pets                # the masks give the localization metrics

For one GPU or TPU chip: 200 and 300 epochs. These are few images to train on from scratch: see configs/finetune_vit.py.
"""

import ml_collections

from shapjax.config import default_config


def get_config(dataset: str = "imagenette") -> ml_collections.ConfigDict:
    config = default_config()
    config.dataset = "tfds:imagenette/160px-v2"
    config.data.test_split = "validation"
    config.data.image_size = 160
    config.data.threads = 16
    config.model.variant = "Ti/16"
    config.model.dtype = "bfloat16"
    config.augment.max_shift = 0
    config.augment.flip = True
    config.augment.crop_area = 0.35
    config.augment.rand_augment = 2
    config.augment.mixup = 0.2
    config.optim.learning_rate = 1e-3
    config.optim.b2 = 0.999
    config.optim.batch_size = 256
    config.optim.steps = 7_400  # 200 epochs
    config.optim.ema_decay = 0.999
    config.run.eval_every = 370
    if dataset == "pets":
        config.dataset = "tfds:oxford_iiit_pet"
        config.data.test_split = "test"
        config.data.image_size = 224
        config.optim.batch_size = 128
        config.optim.steps = 8_600  # 300 epochs
        config.run.eval_every = 430
    return config
