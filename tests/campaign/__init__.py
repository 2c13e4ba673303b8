"""The program as a hostile world would try it: `python -m tests.campaign`; see `__main__`."""
