import torch

from self_attention import SelfAttention


def attention(channels=16, gamma=0.7):
    torch.manual_seed(0)
    layer = SelfAttention(channels).double()
    with torch.no_grad():
        layer.gamma.fill_(gamma)
    return layer


def test_is_the_identity_at_the_start():
    x = torch.randn(2, 16, 4, 5)
    assert torch.equal(SelfAttention(16)(x), x)


def test_equals_the_sum_written_out_position_by_position():
    layer, x = attention(), torch.randn(1, 16, 2, 3).double()
    q, k, v = (f(x)[0].flatten(1) for f in (layer.query, layer.key, layer.value))
    expected = x.clone()[0].flatten(1)
    for i in range(6):
        weights = torch.softmax(torch.stack([q[:, i] @ k[:, j] for j in range(6)]), 0)
        expected[:, i] += 0.7 * sum(weights[j] * v[:, j] for j in range(6))
    assert torch.allclose(layer(x)[0].flatten(1), expected)


def test_moves_with_its_input_when_positions_are_exchanged():
    layer, x = attention(), torch.randn(2, 16, 3, 3).double()
    order = torch.randperm(9)

    def permute(t):
        return t.flatten(2)[:, :, order].view_as(t)

    assert torch.allclose(layer(permute(x)), permute(layer(x)))


def test_has_a_second_derivative():
    layer, x = attention(8), torch.randn(1, 8, 2, 2).double().requires_grad_()
    assert torch.autograd.gradgradcheck(layer, x)


def test_few_channels_keep_at_least_one_to_compare():
    assert SelfAttention(4)(torch.zeros(1, 4, 2, 2)).shape == (1, 4, 2, 2)
