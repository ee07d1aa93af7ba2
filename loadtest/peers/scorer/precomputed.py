"""The network as a careful PyTorch user could export it, with all that ours precomputes.

The target attention's first layer is taken apart, items' and reasons' projections are inputs, and
the output projection of the reasons is part of the head. Needs: torch.
"""

import torch
from torch import nn


class Precomputed(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network
        d = network.item_text.out_features
        w1, w2, w3, w4 = network.target[0].weight.split(d, 1)
        self.item, self.event, self.pair = w1 + w3, (w2 - w3).T.contiguous(), w4.T.contiguous()
        head = network.head[0]
        self.width, heads = d, network.heads
        context = head.weight[:, 3 * d:4 * d]
        out = network.reason_attention.out_proj
        self.own = torch.cat([head.weight[:, :d], head.weight[:, 2 * d:3 * d],
                              context @ out.weight, head.weight[:, 5 * d:]], 1).T.contiguous()
        self.item_head, self.pattern_head = head.weight[:, d:2 * d], head.weight[:, 4 * d:5 * d]
        self.head_bias = head.bias + context @ out.bias
        self.scale = (d // heads) ** -0.5

    def tables(self, item_ids, item_texts, history_ids, history_texts, reasons):
        """The tables that can be computed before a request."""
        net, d = self.network, self.width
        items = net.item_id(item_ids) + net.item_text(item_texts)
        inside = net.reason_attention
        keys_values = nn.functional.linear(
            net.reason(reasons), inside.in_proj_weight[d:], inside.in_proj_bias[d:])
        keys, values = keys_values.unflatten(-1, (2, net.heads, -1)).unbind(-3)
        return dict(
            items=items[0],
            item_terms=nn.functional.linear(items, self.item, net.target[0].bias)[0],
            item_heads=(items @ self.item_head.T)[0],
            history=net.item_id(history_ids) + net.item_text(history_texts),
            keys=keys[0].transpose(1, 2).contiguous(), values=values[0].transpose(1, 2).contiguous(),
        )

    def forward(self, items, item_terms, item_heads, history, keys, values, history_ages,
                history_kinds, pattern, overlap, features):
        net, d = self.network, self.width
        events = history + net.age(history_ages) + net.kind(history_kinds)
        events = net.encoder(events)[0]
        # (n, d, o): the candidate folded into the weights of the pair's term
        folded = items[:, :, None] * self.pair
        hidden = (events @ folded + events @ self.event + item_terms[:, None]).relu()
        interest = net.target[1:](hidden).squeeze(-1) @ events / len(events) ** 0.5

        pattern = net.pattern(pattern)
        inside = net.reason_attention
        query = nn.functional.linear(pattern, inside.in_proj_weight[:d], inside.in_proj_bias[:d])
        query = query.reshape(1, net.heads, -1, 1) * self.scale
        logits = (keys @ query).squeeze(-1) + overlap[0][:, None] * net.own[:, None]
        attention = logits.softmax(-1)
        mixed = (attention[:, :, None] @ values).reshape(len(items), d)

        own = torch.cat([interest, interest * items, mixed, features[0]], -1) @ self.own
        shared = nn.functional.linear(pattern, self.pattern_head, self.head_bias)
        return net.head[1:](own + item_heads + shared).squeeze(-1), attention.mean(1)


def of(network, inputs):
    """The module and its inputs, for one slate whose masks are full."""
    module = Precomputed(network).eval()
    before = ("item_ids", "item_texts", "history_ids", "history_texts", "reasons")
    tables = module.tables(**{name: inputs[name] for name in before})
    rest = ("history_ages", "history_kinds", "pattern", "overlap", "features")
    return module, tables | {name: inputs[name] for name in rest}
