"""Workloads, named after what they represent."""

# (B, D): a training batch of Mult-VAE; a batch whose tensors leave the caches
ROWS = {"batch (1024, 200)": (1024, 200), "large (16384, 256)": (16384, 256)}

# (B, N, H): evaluation of a small, a middling and a large catalogue
RANKING = {
    "(1024, 11,010, 600)": (1024, 11_010, 600),
    "(512, 150,001, 200)": (512, 150_001, 200),
    "(256, 1,000,000, 64)": (256, 1_000_000, 64),
}

# (B, N, H): items of a shop for one customer or a few
FEW_QUERIES = {
    f"({queries}, {items:,}, 64)": (queries, items, 64) for queries in (1, 16) for items in (5_000, 50_000, 200_000)
}

# (B, N, H, targets each): a training batch of a small catalogue; one whose logits nobody keeps
SOFTMAX = {
    "(1024, 11,010, 600)": (1024, 11_010, 600, 18),
    "(256, 1,000,000, 600)": (256, 1_000_000, 600, 18),
}

# (B, D, L, C): a batch of a tokenizer; all items of a large catalogue
QUANTIZING = {"(1024, 32) on 4 x 256": (1024, 32, 4, 256), "(1,000,000, 32) on 4 x 256": (1_000_000, 32, 4, 256)}

# (B, L, C): a batch of a recommender; product codes; few wide codebooks
ALIGNMENT = {
    size: tuple(map(int, size[1:-1].split(", "))) for size in ("(512, 3, 256)", "(1024, 64, 256)", "(4096, 3, 8192)")
}

# (B, items each, E, N): an item and 256 sampled ones for each user of a batch; of a catalogue beyond the caches
SAMPLED = {
    "4096 x 257, width 64, 11,010 items": (4096, 257, 64, 11_010),
    "1024 x 257, width 64, 1,000,000 items": (1024, 257, 64, 1_000_000),
}

# (B, interactions each, E, N): item vectors of a small catalogue, 1536 wide; a catalogue far beyond the caches; a
# layer of graph convolution, of both widths that are common; few users of a large catalogue
SPARSE = {
    "1024 x 18, width 1536, 11,010 items": (1024, 18, 1536, 11_010),
    "2048 x 50, width 384, 300,000 items": (2048, 50, 384, 300_000),
    "11091 x 18, width 64, 11,010 items": (11_091, 18, 64, 11_010),
    "11091 x 18, width 128, 11,010 items": (11_091, 18, 128, 11_010),
    "64 x 50, width 64, 200,000 items": (64, 50, 64, 200_000),
}
