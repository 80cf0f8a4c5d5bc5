"""Text, samples and files of them."""

import numpy as np
import pytest

from blockframe import data
from blockframe.data import Dataset, Samples
from blockframe.errors import InputError


def saved(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_the_manual_is_english_prose():
    text = data.TEXT.text().decode()
    assert len(text) > 100_000
    assert text.count(" the ") > 1000


class TestSequences:
    def test_they_are_pieces_of_the_text_that_start_differently(self):
        text = data.manual()
        tokens = data.sequences(text, 256, 8, 17)
        assert tokens.shape == (8, 17)
        assert tokens.dtype == np.int64
        assert all(bytes(row.tolist()) in text for row in tokens)
        assert len({row[0] for row in tokens.tolist()}) == 8

    def test_they_are_the_same_every_time(self):
        text = data.manual()
        assert np.array_equal(data.sequences(text, 256, 8, 17), data.sequences(text, 256, 8, 17))

    def test_a_small_vocabulary_folds_the_bytes(self):
        tokens = data.sequences(b"hello world, hello", 100, 2, 4)
        assert tokens.max() < 100
        assert tokens[0].tolist() == [ord(c) % 100 for c in "hell"]

    def test_equal_beginnings_are_used_where_there_are_no_others(self):
        assert data.sequences(b"a" * 20, 256, 3, 5).tolist() == [[97] * 5] * 3

    def test_a_text_as_short_as_can_be(self):
        assert data.sequences(b"abcde", 256, 2, 3).tolist() == [[97, 98, 99], [98, 99, 100]]

    def test_a_short_text_is_refused(self):
        with pytest.raises(InputError, match="has 4 bytes, too few for 2 sequences of 3"):
            data.sequences(b"abcd", 256, 2, 3)

    def test_no_sequences_are_refused(self):
        with pytest.raises(InputError, match="positive"):
            data.sequences(b"abcd", 256, 0, 3)
        with pytest.raises(InputError, match="positive"):
            data.random_sequences(256, 0, 3, 0)


class TestSamples:
    def test_integers_become_numbers_and_classes(self):
        samples = Samples(np.arange(6).reshape(3, 2), np.array([0, 2, 1], dtype=np.uint8))
        assert samples.x.dtype == np.float64
        assert samples.y.dtype == np.int64
        assert samples.classes == 3

    def test_real_targets_become_columns(self):
        samples = Samples(np.zeros((3, 2)), np.array([0.5, 1, 2], dtype=np.float32))
        assert samples.y.shape == (3, 1)
        assert samples.classes is None

    def test_the_first_of_them(self):
        samples = Samples(np.arange(6.0).reshape(3, 2), np.arange(3)).first(2)
        assert samples.x.tolist() == [[0, 1], [2, 3]]
        assert samples.y.tolist() == [0, 1]

    @pytest.mark.parametrize("count", [0, -1, 4])
    def test_more_or_fewer_than_there_are(self, count):
        with pytest.raises(InputError, match="from 1 to 3"):
            Samples(np.zeros((3, 2)), np.arange(3)).first(count)

    @pytest.mark.parametrize(
        ("x", "y", "message"),
        [
            (np.array([["a", "b"]]), np.array([0]), "x has dtype"),
            (np.array([[1j, 2]]), np.array([0]), "x has dtype complex128"),
            (np.array([[np.nan, 2]]), np.array([0]), "x holds NaN or infinity"),
            (np.zeros((1, 2)), np.array([np.inf]), "y holds NaN or infinity"),
            (np.zeros((1, 2)), np.array([-1]), "from -1 on"),
            (np.zeros((1, 2)), np.array([[1, 0]]), "integers of shape"),
            (np.zeros((2, 2)), np.array([0]), "2 rows and y has 1"),
            (np.zeros(3), np.arange(3), r"shape \(3,\)"),
            (np.zeros((0, 3)), np.zeros(0), r"shape \(0, 3\)"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, x, y, message):
        with pytest.raises(InputError, match=message):
            Samples(x, y)


class TestFind:
    def test_a_name(self):
        assert data.find("text", {"text": data.TEXT}) is data.TEXT

    def test_a_text_file(self, tmp_path):
        (tmp_path / "story.txt").write_text("Once upon a time")
        found = data.find(str(tmp_path / "story.txt"), {})
        assert found.text() == b"Once upon a time"
        assert found.words == "text of story.txt"

    def test_arrays_in_a_file(self, tmp_path):
        name = saved(tmp_path / "a.npz", x=np.ones((4, 2)), y=np.arange(4))
        assert data.find(name, {}).samples().classes == 4

    def test_a_misspelt_name(self):
        with pytest.raises(InputError, match="Did you mean text"):
            data.find("txet", {"text": data.TEXT})

    def test_a_file_that_does_not_exist(self):
        with pytest.raises(InputError, match="no data and no file"):
            data.find("/nowhere/novel.txt", {})


class TestFiles:
    def test_an_empty_text(self, tmp_path):
        (tmp_path / "empty.txt").touch()
        with pytest.raises(InputError, match="is empty"):
            data.find(str(tmp_path / "empty.txt"), {}).text()

    def test_a_missing_array_is_named(self, tmp_path):
        name = saved(tmp_path / "a.npz", x=np.ones((4, 2)), labels=np.arange(4))
        with pytest.raises(InputError, match=r"no array y\..* has: x, labels"):
            data.find(name, {}).samples()

    def test_nothing_is_unpickled(self, tmp_path):
        name = saved(tmp_path / "a.npz", x=np.array([{}, []], dtype=object), y=np.arange(2))
        with pytest.raises(InputError, match="allow_pickle=False"):
            data.find(name, {}).samples()

    @pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04broken"])
    def test_something_else_with_that_name(self, tmp_path, content):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"is not an \.npz file"):
            data.find(str(tmp_path / "a.npz"), {}).samples()

    def test_a_damaged_array(self, tmp_path):
        name = saved(tmp_path / "a.npz", x=np.ones((4, 2)), y=np.arange(4))
        damaged = bytearray((tmp_path / "a.npz").read_bytes())
        damaged[60] ^= 0xFF
        (tmp_path / "a.npz").write_bytes(damaged)
        with pytest.raises(InputError, match="holds no plain arrays"):
            data.find(name, {}).samples()

    def test_a_file_that_vanished(self, tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            data.read_text(tmp_path / "gone.txt")


def test_text_is_no_samples_and_samples_are_no_text():
    samples = Dataset("pairs", "two", lambda: Samples(np.zeros((2, 2)), np.arange(2)))
    with pytest.raises(InputError, match="reads text"):
        samples.text()
    with pytest.raises(InputError, match="reads arrays"):
        data.TEXT.samples()


def test_random_data_follows_the_seed():
    first, again, other = (data.random_sequences(50, 4, 6, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.max() < 50
    samples = data.random_samples((2, 3), 5, 10, 0)
    assert samples.x.shape == (5, 2, 3)
    assert samples.y.max() < 10


def test_standardised_columns():
    x = data.standardised(np.array([[1.0, 5, 3], [3, 5, 4], [5, 5, 8]]))
    assert np.allclose(x.mean(axis=0), 0)
    assert np.allclose(x.std(axis=0), [1, 0, 1])
