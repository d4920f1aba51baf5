"""The corpora: one file each, named here and nowhere else.

A corpus file holds its frozen `Config` and a class built from one, with `read(root) -> Manifest` and
`recognises(root) -> bool`; a corpus that can be generated also has `generate(root) -> None`.
"""

CORPORA = {
    "affwild2": "extract.corpora.affwild2:AffWild2",
    "demo": "extract.corpora.demo:DemoCorpus",
    "folder": "extract.corpora.folder:Folder",
    "muse": "extract.corpora.muse:MuSe",
}
