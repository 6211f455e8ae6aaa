"""What a trained model's zero-shot tasks are worth, each figure beside the plain way."""
