"""A pretrained ViT on your own images: its new head is trained first, then all of it, with explanations.

  python train.py --config configs/finetune_vit.py --config.pretrained=W --config.dataset=D --workdir runs/mine

W is a directory with weights, or a name on the Hugging Face hub (pip install huggingface_hub), such as
facebook/dinov2-small or google/vit-base-patch16-224; see docs/models.md. D is folder:PATH or tfds:NAME. Another size of
the images, a multiple of the patch: --config.data.image_size=112.

The formulas, for a batch of B images and a training set of n:

  steps          4 epochs, 4 n / B, but at least 400 and at most 2 500; the first tenth trains the head alone
  learning rate  2e-5 √(B / 32) for the last block; each block before it learns at 0.9 of the rate of the next, the new
                 head at 5 times the rate; at the end a hundredth of it is left
  batch          32, or --config configs/finetune_vit.py:64
"""

import ml_collections

from shapjax.config import default_config


def get_config(batch_size: str = "32") -> ml_collections.ConfigDict:
    config = default_config()
    config.pretrained = "facebook/dinov2-small"
    config.new_head = True
    config.dataset = "folder:photos"
    config.data.image_size = 224
    config.data.threads = 2
    config.augment.max_shift = 0
    config.augment.flip = True
    config.augment.crop_area = 0.5
    config.optim.batch_size = int(batch_size)
    config.optim.epochs = 4.0
    config.optim.steps = 2_500
    config.optim.probe = 0.1
    config.optim.warmup = 0.05
    config.optim.learning_rate = 2e-5 * (config.optim.batch_size / 32) ** 0.5
    config.optim.layer_decay = 0.9
    config.optim.head_rate = 5.0
    config.optim.floor = 0.01
    config.optim.b2 = 0.999
    config.optim.ema_decay = 0.99
    config.run.eval_every = 250
    return config
