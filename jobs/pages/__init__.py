"""The pages that a person looks at after a night. Nothing of the night reads them."""
