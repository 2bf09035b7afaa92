"""Table 2 of Zhang et al., SIGIR 2025, with which runs on the paper's own splits are compared.

Models with language used profiles by GPT-3.5 and text vectors by ada-002.
"""

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
DATASETS = ("amazon-book", "yelp", "steam")
MODELS = {"mult-vae", "cvga", "l-diffrec", *(f"{b}-{s}" for b in ("dmrec", "cvga", "l-diffrec") for s in "gcm")}
"""The recipes of the models in the table."""

_ROWS = {
    ("mult-vae", None): ".0976 .1472 .0752 .0916 .0732 .1189 .0593 .0751 .0929 .1452 .0744 .0923",
    ("mult-vae", "godm"): ".1047 .1545 .0795 .0960 .0752 .1226 .0612 .0775 .0954 .1495 .0764 .0950",
    ("mult-vae", "cpdm"): ".1047 .1561 .0802 .0971 .0771 .1254 .0625 .0792 .0952 .1496 .0762 .0948",
    ("mult-vae", "mddm"): ".1069 .1571 .0812 .0979 .0768 .1261 .0618 .0785 .0986 .1536 .0784 .0973",
    ("l-diffrec", None): ".1048 .1495 .0844 .0990 .0721 .1177 .0590 .0745 .0885 .1395 .0722 .0893",
    ("l-diffrec", "godm"): ".1063 .1529 .0867 .1016 .0750 .1225 .0625 .0787 .0899 .1419 .0740 .0916",
    ("l-diffrec", "cpdm"): ".1059 .1525 .0856 .1006 .0766 .1248 .0641 .0804 .0907 .1420 .0744 .0917",
    ("l-diffrec", "mddm"): ".1111 .1576 .0893 .1044 .0753 .1218 .0613 .0771 .0961 .1474 .0773 .0949",
    ("cvga", None): ".1030 .1522 .0799 .0960 .0779 .1249 .0639 .0801 .0842 .1339 .0679 .0847",
    ("cvga", "godm"): ".1135 .1647 .0865 .1035 .0806 .1310 .0657 .0829 .0959 .1506 .0771 .0958",
    ("cvga", "cpdm"): ".1132 .1642 .0869 .1038 .0809 .1307 .0655 .0826 .0973 .1522 .0781 .0969",
    ("cvga", "mddm"): ".1129 .1652 .0869 .1042 .0803 .1304 .0654 .0826 .0989 .1536 .0792 .0979",
}


def published_figures(dataset: str, backbone: str | None, strategy: str | None) -> dict[str, float] | None:
    """The paper's figures by metric, for a backbone with a matching strategy (None: the base); None if it has none."""
    row = _ROWS.get((backbone or "", strategy))
    if dataset not in DATASETS or row is None:
        return None
    start = 4 * DATASETS.index(dataset)
    return dict(zip(METRICS, map(float, row.split()[start : start + 4]), strict=True))
