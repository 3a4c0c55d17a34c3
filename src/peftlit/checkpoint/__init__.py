"""What a run resumes from: file format, contents, random states, and whether it is still the same run."""
