"""Attribution methods: pure functions (model, images, targets, key, …) -> [B, N] of any `classifier.Classifier`.

One file a family; `registry` knows them all by name.
"""
