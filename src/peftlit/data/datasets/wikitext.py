"""WikiText-2, raw: verified good and featured articles of Wikipedia (Merity et al., ICLR 2017)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import datasets

from peftlit.data.checks import check_columns, checked_texts
from peftlit.data.documents import DocumentDataModule
from peftlit.data.files import find_splits, read_hub
from peftlit.data.table import make_rows

_CONFIGURATION = "wikitext-2-raw-v1"


@dataclass(kw_only=True, eq=False, repr=False)
class WikiText2(DocumentDataModule):
    """WikiText-2 from the hub (``Salesforce/wikitext``, ``wikitext-2-raw-v1``), or from local files. Its three splits.

    The set has a line per row, blank ones between them. They are put together into articles, which begin with a
    heading of the first order (`` = Title = ``): an article is a document, and what is checked. Headings such as
    `` = = References = = `` repeat, articles do not.

    Args:
        data_dir: Folder with ``train``, ``validation`` and ``test`` as ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``,
            a line per row in the column ``text``; unset = the hub.
        revision: Branch, tag or commit of the hub set.
    """

    data_dir: str | None = None
    revision: str | None = None
    test_share: float = 0.0

    def load(self) -> dict[str, datasets.Dataset]:
        """Return the articles of local files, or of the hub's splits."""
        if self.data_dir is not None:
            lines = self.load_files(find_splits(self.data_dir))
        else:
            lines = read_hub("Salesforce/wikitext", _CONFIGURATION, self.revision)
            self.sources = {split: f"Salesforce/wikitext {_CONFIGURATION} {split}" for split in lines}
        return {split: self._articles(rows, split) for split, rows in lines.items()}

    def _articles(self, rows: datasets.Dataset, split: str) -> datasets.Dataset:
        check_columns(rows.column_names, [self.text_column], self.sources[split])
        return make_rows({self.text_column: articles(checked_texts(rows, self.text_column, self.sources[split]))})


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Put lines together into articles; blank lines are left out.

    Some lines of the set's tables look like a heading of the first order. They begin an article too: nothing tells
    them apart.

    Args:
        lines: The lines, with or without line breaks at their ends.
    """
    article: list[str] = []
    for line in lines:
        line = line.rstrip("\n")
        if not line.strip():
            continue
        if line.startswith(" = ") and line.endswith(" = ") and not line.startswith(" = = ") and article:
            yield "\n".join(article)
            article = []
        article.append(line)
    if article:
        yield "\n".join(article)
