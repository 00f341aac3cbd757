"""What a run gives to the Hugging Face Hub: where its models come from, cards, pairs as a dataset, and the pushes."""
