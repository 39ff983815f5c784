"""Random changes of training patches.

All changes run on the device of the training, for a whole batch at once. All random numbers come
from the generator that is passed in, so that a resumed training draws the same numbers.
"""
