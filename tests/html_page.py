"""A parser of HTML pages, for tests."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "input"}


class Page(HTMLParser):
    """The elements of a page, as `(tag, attributes)`, and its text.

    Raises AssertionError if tags close out of order.
    """

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str):
        assert self.open.pop() == tag

    def handle_data(self, data: str):
        self.text += data

    def values(self, attribute: str, *tags: str) -> list[str]:
        """The values of an attribute, in all elements or in those with these tags."""
        return [attrs[attribute] for tag, attrs in self.elements if attrs.get(attribute) and (not tags or tag in tags)]

    @property
    def pictures(self) -> list[str]:
        return self.values("src", "img")
