"""Many runs from one definition, on whatever there is to run them."""
