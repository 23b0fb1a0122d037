"""metrics.jsonl: which of its lines are rows."""

from pathlib import Path

from deeplab_jax.reporting.metrics_file import read_log, read_metrics


def test_broken_lines_are_left_out_and_counted_but_for_a_last_one(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "eval/miou": None}]
    broken = [
        b"",
        b"[1]",
        b'{"loss": 1}',
        b'{"step": true}',
        b'{"step": 1.0}',
        b"\xff",
        b"[" * 9999,
    ]
    good = [b'{"step": 1, "loss": 0.5}', b'{"step": 2, "eval/miou": null}']
    file.write_bytes(b"\n".join([good[0], *broken, b"  ", good[1], b'{"step": 3, "lo']))
    assert read_log(file) == (rows, 6)  # an empty line is none
    assert read_metrics(file) == rows
    file.write_bytes(b"\n".join(good))  # the last without its end, but whole
    assert read_log(file) == (rows, 0)
    file.write_bytes(b"")
    assert read_log(file) == ([], 0)
