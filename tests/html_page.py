"""What a page of HTML holds, for tests."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The text and the pictures of a page. Raises AssertionError if tags do not close in order."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        if tag == "img":
            self.pictures.append(dict(attrs)["src"] or "")
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str):
        assert self.open.pop() == tag

    def handle_data(self, data: str):
        self.text += data
