import numpy as np

from starflow.data.shards import DIGEST, Digests, digest_of


def test_digests_are_found_at_their_first_place():
    digests = np.array([digest_of(text) for text in (b"c", b"a", b"b", b"a")], DIGEST)
    wanted = np.array([digest_of(text) for text in (b"a", b"d", b"c", b"b", b"")], DIGEST)
    assert Digests(digests).find(wanted).tolist() == [1, -1, 0, 2, -1]
    assert Digests(digests[:0]).find(wanted).tolist() == [-1] * 5
    assert Digests(digests).find(digests[:0]).tolist() == []
