"""The cluster's names: which there should be, and who makes the world see them."""
