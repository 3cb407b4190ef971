"""The Python API in TRL's shape: trainers, their configs, LoraConfig (also `from groat import ...`)."""
