"""Models and their chat formats: folders in and out, messages to tokens and back, tiny policies made from nothing."""
