"""The model that groat found as a plain Hugging Face folder for the peers. Arguments: model folder, new folder.

In a process of its own: what it takes to read a GGUF file is not the peers' memory.
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

source, target = sys.argv[1:]
read = AutoModelForCausalLM.from_pretrained(source, gguf_file="model.gguf", dtype=torch.float32)
if hasattr(read.config, "quantization_config"):
    del read.config.quantization_config
# A new model of the same weights: the one that was read remembers that it was quantized, and refuses to be trained.
plain = type(read)(read.config)
plain.load_state_dict(read.state_dict())
plain.save_pretrained(target)
AutoTokenizer.from_pretrained(source).save_pretrained(target)
