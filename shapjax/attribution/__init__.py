"""Attribution methods: pure functions (model, images, targets, key, …) -> [B, N] of any `shapjax.classifier.Classifier`.

One file a family; `registry` knows them all by name.
"""
