"""Small trained models that come with the package, as exports without a program.

    mnist5k_baseline   the baseline model of the demo: configs/mnist5k.py with --config.shapley.weight=0
"""
