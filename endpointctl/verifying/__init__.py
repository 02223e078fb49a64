"""Does the cluster keep its word? The product's own append and register checker."""
