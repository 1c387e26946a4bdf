import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from postgresql_server import kill_connections
from starflow.errors import StarflowError, UsageError
from starflow.serve import jobs as jobs_module
from starflow.serve.database import Job, connect
from starflow.serve.jobs import JobStore, QueueFull, new_id

KEEP = 100.0


def job(prompt: str = "a red circle", **values: object) -> Job:
    return Job(**({"id": new_id(), "kind": "video", "prompt": prompt, "settings": {}, "owner": ""} | values))


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}", KEEP)
    yield store
    store.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobStore]:
    """A store without jobs, in each database."""
    is_sqlite = request.param == "sqlite"
    store = JobStore(
        f"sqlite:///{tmp_path / 'jobs.sqlite'}" if is_sqlite else request.getfixturevalue("database"), KEEP
    )
    yield store
    store.close()


def test_jobs_are_claimed_in_order_and_each_once(store: JobStore):
    added = [store.add(job(str(number)), 1000).id for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        claimed = list(pool.map(lambda number: [each.id for each in store.claim(f"worker-{number % 4}")], range(44)))
    assert sorted(job_id for batch in claimed for job_id in batch) == sorted(added)
    assert [store.get(job_id).attempts for job_id in added] == [1] * 40


def test_the_queue_is_bounded(store: JobStore):
    for _ in range(3):
        store.add(job(), 3)
    with pytest.raises(QueueFull):
        store.add(job(), 3)
    store.claim("worker")
    store.add(job(), 3)


def test_jobs_of_the_same_key_are_claimed_together(store: JobStore):
    keys = ["small", "large", "small", None, "small", "small"]
    added = [store.add(job(batch_key=key), 10).id for key in keys]
    claims = [[each.id for each in store.claim("worker", 3)] for _ in range(5)]
    assert claims == [[added[0], added[2], added[4]], [added[1]], [added[3]], [added[5]], []]


def test_an_idempotency_key_gives_the_first_job_of_its_owner(store: JobStore):
    first = store.add(job(idempotency_key="k", owner="ann"), 10)
    assert store.add(job(idempotency_key="k", owner="ann"), 10).id == first.id
    assert store.add(job(idempotency_key="k", owner="bob"), 10).id != first.id
    assert store.count("queued") == 2


def test_threads_that_add_with_the_same_idempotency_key_get_one_job(store: JobStore):
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: store.add(job(idempotency_key="k"), 10).id, range(16)))
    assert len(ids) == store.count("queued") == 1


def test_a_job_belongs_to_its_owner(store: JobStore):
    added = store.add(job(owner="ann"), 10)
    assert store.get(added.id, "ann").id == added.id
    assert store.get(added.id, "bob") is None


def test_a_cancelled_job_is_lost_to_its_worker(store: JobStore):
    added = store.add(job(), 10)
    store.claim("worker")
    assert store.renew("worker", [added.id], 50) == {added.id: added.prompt}
    assert store.cancel(added.id)
    assert store.renew("worker", [added.id], 60) == {}
    assert not store.finish("worker", added.id, "completed")
    assert not store.cancel(added.id)
    assert store.is_cancelled(added.id)
    ended = store.get(added.id)
    assert (ended.status, ended.progress) == ("cancelled", 50)
    assert ended.expires_at == pytest.approx(ended.completed_at + KEEP)


def test_a_job_may_be_ended_again_by_its_worker_which_did_not_get_the_answer(store: JobStore):
    added = store.add(job(), 10)
    store.claim("worker")
    assert store.finish("worker", added.id, "completed")
    assert store.finish("worker", added.id, "completed")
    assert not store.finish("worker", added.id, "failed")
    assert not store.finish("other", added.id, "completed")
    assert store.get(added.id).status == "completed"


def test_the_prompt_of_a_running_job_can_change(store: JobStore):
    added = store.add(job(), 10)
    store.claim("worker")
    assert store.steer(added.id, "a blue square")
    assert store.renew("worker", [added.id], 0) == {added.id: "a blue square"}


def test_a_job_whose_worker_dies_is_made_again_once(store: JobStore):
    added = store.add(job(), 10)
    store.claim("first")
    assert store.worker_died("first", "signal 9") == []
    assert store.get(added.id).status == "queued"
    assert not store.is_cancelled(added.id)
    (again,) = store.claim("second")
    assert (again.id, again.attempts) == (added.id, 2)
    assert store.worker_died("second", "signal 9") == [added.id]
    failed = store.get(added.id)
    assert (failed.status, failed.error_code) == ("failed", "worker_died")
    assert failed.error_message == "the worker process died 2 times while it made this: signal 9"
    assert store.claim("third") == []


def test_jobs_whose_lease_has_ended_are_recovered(store: JobStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs_module, "LEASE_SECONDS", -1.0)
    added = store.add(job(), 10)
    store.claim("worker")
    assert store.recover() == []
    assert store.get(added.id).status == "queued"


def test_a_worker_is_ready_while_it_makes_a_job_that_takes_long(store: JobStore):
    store.add(job(), 10)
    store.report_worker("worker", 1)
    store.claim("worker")
    assert store.busy_workers() == {"worker"}
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE workers SET seen_at = 0"))
    assert [worker.name for worker in store.ready_workers()] == ["worker"]
    store.release("worker")
    assert store.ready_workers() == []
    assert store.busy_workers() == set()


def test_a_worker_that_stops_gives_back_its_job_as_if_it_had_not_begun(store: JobStore):
    added = store.add(job(), 10)
    for _ in range(5):
        store.claim("worker")
        store.release("worker")
    assert (store.get(added.id).status, store.get(added.id).attempts) == ("queued", 0)


def test_pages_go_through_all_videos_of_an_owner(store: JobStore):
    added = [store.add(job(owner="ann"), 10).id for _ in range(5)]
    store.add(job(owner="bob"), 10)

    def ids(after: str | None, *, newest_first: bool) -> list[str]:
        return [each.id for each in store.page("ann", after, 2, newest_first=newest_first, kind="video")]

    assert ids(None, newest_first=True) == added[:2:-1]
    assert ids(added[3], newest_first=True) == added[2:0:-1]
    assert ids(added[3], newest_first=False) == added[4:]


def test_finished_jobs_expire_by_age_and_by_size(store: JobStore):
    added = [store.add(job(), 10).id for _ in range(4)]
    for index, job_id in enumerate(added[:3]):
        store.claim("worker")
        store.finish("worker", job_id, "completed", size_bytes=100, completed_at=time.time() + index)
    assert store.expired(keep_bytes=300) == []
    assert store.expired(keep_bytes=200) == [added[0]]
    store.claim("worker")
    store.finish("worker", added[3], "failed", completed_at=1.0, expires_at=2.0)
    assert store.expired(keep_bytes=300) == [added[3]]


def test_a_new_store_finds_the_jobs_of_the_old_one(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    first = JobStore(url, KEEP)
    added = first.add(job(), 10)
    first.close()
    assert JobStore(url, KEEP).get(added.id).status == "queued"


@pytest.mark.service
def test_a_lost_connection_is_opened_again(database: str):
    with closing(JobStore(database, KEEP)) as store:
        added = store.add(job(), 10)
        assert kill_connections(database) > 0
        assert store.get(added.id).id == added.id


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("nonsense", UsageError, "cannot use the database nonsense"),
        ("unknown://x", UsageError, "cannot use the database unknown://x"),
        ("sqlite:////no/such/folder/jobs.sqlite", StarflowError, "cannot reach the database"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(
    url: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("starflow.serve.database.PAUSE_SECONDS", 0)
    with pytest.raises(error, match=message):
        connect(url)


def test_a_method_is_called_again_after_a_lost_connection(sqlite_store: JobStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("starflow.serve.database.PAUSE_SECONDS", 0)
    session, failures = sqlite_store._session, 3

    def lost() -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise OperationalError("lost", {}, Exception("lost"))
        return session()

    monkeypatch.setattr(sqlite_store, "_session", lost)
    assert sqlite_store.count("queued") == 0
    assert failures == 0
