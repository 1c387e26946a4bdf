"""Logs of the server: a JSON object per line, with the request's id where there is one."""

import json
import logging
from datetime import UTC, datetime

FIELDS = ("request_id", "job", "worker", "status", "method", "path", "seconds", "stages", "key")


class JsonFormatter(logging.Formatter):
    """One line for each record: time, level, logger, message, and those of `FIELDS` that it has."""

    def format(self, record: logging.LogRecord) -> str:
        row = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        row |= {name: getattr(record, name) for name in FIELDS if getattr(record, name, None) not in (None, "")}
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row, ensure_ascii=False)


def log_as_json(level: int = logging.INFO) -> None:
    """Write the logs of this process to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("starflow").setLevel(level)
