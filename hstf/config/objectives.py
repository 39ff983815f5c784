"""The list of all training objectives of the student.

To add an objective, write one new file in ``hstf/method/objectives/`` and add one line here. The
configuration checks names against this list, and
:func:`hstf.method.objectives.registry.student_objective` imports an objective when it is used. The
list stores the place of the code as text because the configuration must not import torch.
"""

OBJECTIVES: dict[str, str] = {
    "self_training": "hstf.method.objectives.self_training:self_training",
    "mean_teacher": "hstf.method.objectives.mean_teacher:mean_teacher",
    "uamt": "hstf.method.objectives.uamt:uamt",
    "cross_teaching": "hstf.method.objectives.cross_teaching:cross_teaching",
    "bcp": "hstf.method.objectives.bcp:bcp",
}
"""Name of each objective, and the module and the function that returns it for a configuration."""
