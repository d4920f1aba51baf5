"""The corpora: one file each, named here and nowhere else.

A corpus file holds its frozen `Config` and a class built from one, with `read(root) -> Manifest`;
a corpus that can be generated also has `generate(root) -> None`.
"""

CORPORA = {
    "demo": "extract.corpora.demo:DemoCorpus",
}
