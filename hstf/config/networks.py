"""The list of all networks.

To add a network, write one new file in ``hstf/models/`` and add one line here. The configuration
checks names against this list, and :func:`hstf.models.registry.build` imports a network when it is
used. The list stores the place of the code as text because the configuration must not import torch.
"""

NETWORKS: dict[str, str] = {
    "hybrid": "hstf.models.hybrid:HybridNet",
    "hybrid_identity": "hstf.models.hybrid:HybridNet",
    "cnn": "hstf.models.hybrid:HybridNet",
    "vit": "hstf.models.unetr:Unetr",
    "swin": "hstf.models.swin_unetr:swin_unetr",
    "unetpp": "hstf.models.unetpp:unetpp",
    "utnet": "hstf.models.utnet:UTNet",
    "vnet": "hstf.models.vnet:vnet",
}
"""Name of each network, and the module and the class or function that builds it from a
:class:`~hstf.models.base.NetworkSpec`."""
