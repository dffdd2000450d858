"""What the two streams take from each other; importing the package registers the fusions."""

from smmcl.modeling.fusion import (  # noqa: F401
    add_to_visible,
    channel_exchange,
    cmx,
    cross_modal,
    plain,
    sa_gate,
    se_add,
    token_fusion,
)
