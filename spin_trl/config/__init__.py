"""What a recipe may say: settings of an iteration, of the loop, of the data; recipes; and what is refused in them."""
