"""The canary: which sessions count, what they prove, and when that is enough to go on or to go back."""
