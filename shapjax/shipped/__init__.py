"""Small trained models that come with the package, as exports without a program; `make shipped` makes them.

    mnist5k            configs/mnist5k.py
    mnist5k_baseline   its baseline model: with --config.shapley.weight=0
"""
