"""What an iteration is worth: figures on prompts that no iteration trained on."""
