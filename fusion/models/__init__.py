"""The fusion models, one file each. This table is the only list of them."""

MODELS = {
    "channel_attention": "fusion.models.channel_attention:ChannelAttention",
    "concatenation": "fusion.models.concatenation:Concatenation",
    "cross_modal_attention": "fusion.models.cross_modal_attention:CrossModalAttention",
    "joint_cross_attention": "fusion.models.joint_cross_attention:JointCrossAttention",
    "late": "fusion.models.late:LateFusion",
    "leader_follower": "fusion.models.leader_follower:LeaderFollower",
    "linear": "fusion.models.linear:LinearRegression",
    "recursive_cross_attention": "fusion.models.recursive_cross_attention:RecursiveCrossAttention",
    "rnn": "fusion.models.rnn:AudiovisualRNN",
    "self_attention": "fusion.models.self_attention:AudiovisualSelfAttention",
    "tcn": "fusion.models.tcn:TemporalConvolution",
}
