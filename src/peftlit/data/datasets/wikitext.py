"""WikiText-2, raw: verified good and featured articles of Wikipedia (Merity et al., ICLR 2017)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import datasets

from peftlit.data.checks import check_columns, checked_texts
from peftlit.data.documents import DocumentDataModule
from peftlit.data.folder_or_hub import FolderOrHub
from peftlit.data.table import make_rows


@dataclass(kw_only=True, eq=False, repr=False)
class WikiText2(FolderOrHub, DocumentDataModule):
    """WikiText-2 from the hub (``Salesforce/wikitext``, ``wikitext-2-raw-v1``), or from local files. Its three splits.

    The set has a line per row in the column ``text``, blank ones between them. They are put together into articles,
    which begin with a heading of the first order (`` = Title = ``): an article is a document, and what is
    checked. Headings such as `` = = References = = `` repeat, articles do not.
    """

    hub_path: ClassVar[str] = "Salesforce/wikitext"
    hub_name: ClassVar[str | None] = "wikitext-2-raw-v1"

    def load(self) -> dict[str, datasets.Dataset]:
        """Return the articles of local files, or of the hub's splits."""
        return {split: self._articles(rows, split) for split, rows in super().load().items()}

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
