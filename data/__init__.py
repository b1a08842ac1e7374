"""A data set by name or folder, its images and its batches."""
