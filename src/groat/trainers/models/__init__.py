"""Models and tokenizers as notebooks hold them: FastLanguageModel and AutoModelForCausalLM, SamplingParams."""
