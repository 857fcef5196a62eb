"""What a sweep needs beside what all scripts do; imported before all that imports it."""

from options.needed import need


need("sweep", "optuna", "submitit")
