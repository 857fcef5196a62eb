"""Training over epochs: batches, wake and sleep, several runs, several devices. Imports all the rest."""
