"""The corpora: one file each, named here and nowhere else.

A corpus file holds its frozen `Config` and a `Corpus` built from one; `extract.corpora.contract` says what it promises.
"""

CORPORA = {
    "affwild2": "extract.corpora.affwild2:AffWild2",
    "demo": "extract.corpora.demo.corpus:DemoCorpus",
    "folder": "extract.corpora.folder:Folder",
    "muse": "extract.corpora.muse:MuSe",
    "recola": "extract.corpora.recola:Recola",
}
