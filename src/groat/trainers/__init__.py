"""The Python API in TRL's shape: GRPOTrainer, GRPOConfig, LoraConfig (also `from groat import ...`)."""
