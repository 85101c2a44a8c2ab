"""Holds what comes with the package: small trained models, as exports without a program.

    mnist5k_baseline   the baseline model of the demo: configs/mnist5k.py with --config.shapley.weight=0
"""
