"""The transformer equals the one of the package transformers, in float64, weights copied."""

import pytest
import torch
from dmrec.models.sequential import t5
from dmrec.models.sequential.t5 import Decoder, Encoder, T5Options, bucket_of, initialise

SIZES = T5Options(layers=3, width=24, feed_forward=40, heads=3, head_width=7, dropout=0.0)


@pytest.fixture(scope="module")
def theirs():
    """Their encoder and decoder; their norms, which round to float32, in float64."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.t5 import modeling_t5

    def exact(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))

    before = modeling_t5.T5LayerNorm.forward
    modeling_t5.T5LayerNorm.forward = exact
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=30,
        d_model=SIZES.width,
        d_kv=SIZES.head_width,
        d_ff=SIZES.feed_forward,
        num_layers=SIZES.layers,
        num_heads=SIZES.heads,
        dropout_rate=0.0,
        feed_forward_proj="relu",
    )
    yield transformers.T5Model(config).double().eval()
    modeling_t5.T5LayerNorm.forward = before


def _copied(theirs):
    encoder, decoder = Encoder(SIZES).double().eval(), Decoder(SIZES).double().eval()
    with torch.no_grad():
        for mine, stack in ((encoder, theirs.encoder), (decoder, theirs.decoder)):
            table = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight
            mine.positions.weight.copy_(table.normal_())
            mine.norm.weight.copy_(stack.final_layer_norm.weight.uniform_(0.5, 1.5))
            for layer, block in zip(mine.layers, stack.block, strict=True):
                parts = [(layer.attention, block.layer[0].SelfAttention)]
                parts += [(layer.cross, block.layer[1].EncDecAttention)] if mine is decoder else []
                for attention, copied in parts:
                    for name in "qkvo":
                        getattr(attention, name).weight.copy_(getattr(copied, name).weight.normal_(std=0.3))
                dense = block.layer[-1].DenseReluDense
                layer.feed_forward.wi.weight.copy_(dense.wi.weight.normal_(std=0.3))
                layer.feed_forward.wo.weight.copy_(dense.wo.weight.normal_(std=0.3))
                for norm, sublayer in zip(layer.norms, block.layer, strict=True):
                    norm.weight.copy_(sublayer.layer_norm.weight.uniform_(0.5, 1.5))
    return encoder, decoder


@pytest.fixture(scope="module")
def case(theirs):
    encoder, decoder = _copied(theirs)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 150, SIZES.width, generator=generator, dtype=torch.float64)
    y = torch.randn(5, 6, SIZES.width, generator=generator, dtype=torch.float64)
    there = torch.arange(150) < torch.tensor([150, 1, 70, 149, 3])[:, None]
    return encoder, decoder, x, y, there


@torch.no_grad()
def test_encoder_and_decoder_are_theirs(case, theirs):
    encoder, decoder, x, y, there = case
    expected = theirs(inputs_embeds=x, attention_mask=there.long(), decoder_inputs_embeds=y)
    hidden = encoder(x, there)
    assert (hidden - expected.encoder_last_hidden_state)[there].abs().max() < 1e-10
    assert (decoder(y, decoder.memory(hidden, there)) - expected.last_hidden_state).abs().max() < 1e-10


@torch.no_grad()
def test_steps_with_cached_keys_are_the_whole(case):
    encoder, decoder, x, y, there = case
    memory = decoder.memory(encoder(x, there), there)
    whole = decoder(y, memory)
    cache = None
    for place in range(y.shape[1]):
        hidden, cache = decoder.step(y[:, place : place + 1], memory, cache)
        assert (hidden[:, 0] - whole[:, place]).abs().max() < 1e-12
    rows = torch.tensor([3, 0])
    assert torch.equal(decoder(y[rows], memory.rows(rows)), whole[rows])


@torch.no_grad()
def test_many_prefixes_of_a_user_are_each_its_own(case):
    encoder, decoder, x, y, there = case
    memory = decoder.memory(encoder(x, there), there)
    _, cache = decoder.step(y[:, :1], memory, None)
    tokens = torch.randn(5, 4, SIZES.width, dtype=torch.float64)
    keys, values = ([k.expand(-1, -1, 4, -1, -1) for k in kind] for kind in cache)
    together, _ = decoder.step(tokens, memory, t5.Cache(keys, values))
    for w in range(4):
        alone = decoder(torch.cat([y[:, :1], tokens[:, w : w + 1]], 1), memory)[:, -1]
        assert (together[:, w] - alone).abs().max() < 1e-12


@torch.no_grad()
def test_padding_changes_nothing(case):
    encoder, decoder, x, y, there = case
    short, few = x[2:3, :70], there[2:3, :70]
    alone = decoder(y[2:3], decoder.memory(encoder(short, few), few))
    noise = torch.where(there[:, :, None], x, 1e6 * torch.randn_like(x))
    padded = decoder(y, decoder.memory(encoder(noise, there), there))[2:3]
    assert (padded - alone).abs().max() < 1e-10


@pytest.mark.parametrize("two_sided", [True, False])
def test_buckets(two_sided):
    distance = torch.arange(-300, 301)
    bucket = bucket_of(distance, two_sided)
    assert bucket.min() >= 0
    assert bucket.max() < t5.BUCKETS
    near = 8 if two_sided else 16
    assert bucket[300 - near + 1 : 301].unique().numel() == near, "one each near by"
    assert (bucket[distance <= -128] == bucket[0]).all(), "and one for all that is far"
    if not two_sided:
        assert (bucket[distance > 0] == 0).all(), "what comes later is not looked at"


@pytest.mark.parametrize("kind", ["t5", "normal"])
def test_initial_variances(kind):
    sizes = T5Options(layers=1, width=256, feed_forward=512, heads=8, head_width=32, initialisation=kind)
    decoder = Decoder(sizes)
    torch.manual_seed(0)
    initialise(decoder, sizes)
    layer = decoder.layers[0]
    wanted = {
        layer.attention.q: (256 * 32) ** -0.5,
        layer.cross.k: 256**-0.5,
        layer.attention.o: 256**-0.5,
        layer.feed_forward.wi: 256**-0.5,
        layer.feed_forward.wo: 512**-0.5,
    }
    for module, deviation in wanted.items():
        expected = 0.02 if kind == "normal" else deviation
        assert module.weight.std().item() == pytest.approx(expected, rel=0.03)
    assert (decoder.norm.weight == 1).all()
