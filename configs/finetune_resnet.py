"""Unmeasured. Oxford-IIIT Pet with a ResNet-50 from ImageNet, which learns 37 breeds and to explain itself; 49 patches.

  pip install huggingface_hub                          # or give a directory instead of the name, see docs/models.md
  python -m shapjax prepare oxford_iiit_pet
  python train.py --config configs/finetune_resnet.py --workdir runs/pet_resnet50
  python eval.py  --checkpoint runs/pet_resnet50       # the masks give the localization metrics

For one GPU: 30 epochs of 3 passes an image, 4.1 billion multiplications each and twice that backward, 8e15 operations
in all. That is minutes on an A100 or newer, and two days on 2 CPU cores. Calculated.

A ConvNeXt in its place: --config.pretrained=facebook/convnext-tiny-224 --config.model.variant=ConvNeXt-T
Without explanations, to see what they cost: --config.shapley.num_pairs=0 --workdir runs/pet_resnet50_plain
"""

import ml_collections

from shapjax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.pretrained = "microsoft/resnet-50"  # or timm/resnet50.a1_in1k
    config.new_head = True
    config.dataset = "tfds:oxford_iiit_pet"
    config.data.image_size = 224
    config.data.threads = 16
    config.model.variant = "ResNet-50"
    config.model.dtype = "bfloat16"
    config.model.remat = "none"
    config.augment.max_shift = 0
    config.augment.flip = True
    config.augment.crop_area = 0.35
    config.optim.learning_rate = 3e-4  # a tenth of what is usual from scratch
    config.optim.b2 = 0.999
    config.optim.batch_size = 64
    config.optim.steps = 1_725  # 30 epochs
    config.run.eval_every = 345
    return config
