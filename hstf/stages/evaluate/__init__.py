"""The stage ``evaluate``: predict and score the test cases of a round."""
