"""``blockframe certify``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blockframe.cli.options import (
    learning_rate,
    output_format,
    problem_options,
    registry,
    run_options,
    settings,
)
from blockframe.cli.output import complain, emit, page
from blockframe.cli.progress import progress
from blockframe.errors import CertificateError, Exit, InputError
from blockframe.interrupts import held

if TYPE_CHECKING:
    from blockframe.certificate.model import Certificate, Trajectory


CAN_GO_ON = "the run can go on: the same command with --resume."


@click.command()
@click.argument("spec")
@settings
@problem_options
@click.option(
    "--steps",
    type=click.IntRange(min=0),
    metavar="K",
    default=20,
    show_default=True,
    help="Steps of gradient descent.",
)
@click.option(
    "--lr",
    metavar="auto|X|RULE",
    callback=learning_rate,
    default="auto",
    show_default=True,
    help="Learning rate; auto is a fraction of 2/lambda_max of the Hessian at the start. Or a "
    "list (0.1,0.05), linear:A:B, cosine:A:B, step:A:F:N (times F every N steps).",
)
@run_options
@click.option("--static-only", is_flag=True, help="Decide the clauses, run no gradient descent.")
@click.option(
    "--probe",
    "probes",
    multiple=True,
    metavar="NAME",
    help="Measure this too, at every iterate: kinks (costs about a gradient), segment_curvature, "
    "bottom_eigenvalue (tens), tangent, tangent_bound, block_jacobian, spectral_density "
    "(hundreds), or a plugin's. Repeatable.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the certificate there, as SPEC.cert.json, and keep the run there while it goes.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with the run in --out, where it was broken off."
)
@output_format
def certify(spec: str, out: Path | None, resume: bool, format_: str, **options: Any) -> int:
    """Decide the clauses of the contract for SPEC and run gradient descent on it.

    SPEC is a name that a plugin resolves (see `blockframe plugins list`), path/file.py:attr or
    package.module:attr, where attr is (module, inputs), (module, inputs, targets), a
    blockframe.Problem, or a function that returns one; or a local directory with the config.json
    of a HuggingFace model.
    """  # fmt: skip
    import blockframe
    from blockframe.dynamics.ending import was_interrupted
    from blockframe.naming import lookup

    static_only = options["static_only"]
    if resume and out is None:
        raise click.UsageError("--resume goes on with the run in --out; give --out too.")
    if resume and static_only:
        raise click.UsageError("--resume goes on with a run, and --static-only makes none.")
    path = _destination(out, spec, resume=resume, static_only=static_only) if out else None
    plugins = registry()
    renderer = plugins.renderer(format_)
    for name in options["probes"]:
        lookup("probe", name, plugins.probes())
    with _hinting(out, spec):
        # What a user's model prints must not end up in the document on stdout.
        with progress() as working, redirect_stdout(sys.stderr):
            certificate = blockframe.certify(
                spec, out=out, resume=resume, registry=plugins, progress=working, **options
            )
        trajectory = certificate.trajectory
        interrupted = trajectory is not None and was_interrupted(trajectory.ended)
        # a certificate of nothing must not take the place of what is there
        kept = interrupted and not _measured(certificate) and path is not None and path.exists()
        with held():
            saved, failure = _save(certificate, None if kept else path)
            left = _tidied(trajectory, out, spec) if trajectory and out and not failure else False
        emit(renderer.render(certificate, page(saved)))
    if failure is not None:
        raise failure
    if kept:
        complain(f"nothing was measured yet: {path} is still the one from before.")
    if left:
        complain(CAN_GO_ON)
    return Exit.INTERRUPTED if interrupted else Exit[certificate.verdict.value]


def _destination(out: Path, spec: str, *, resume: bool, static_only: bool) -> Path:
    """The file for the certificate.

    Raises:
        InputError: it cannot be written, or a run that is there would be lost.
    """
    from blockframe.certificate.store import file_name, prepare, read
    from blockframe.dynamics.place import Place

    path = prepare(out) / file_name(spec)
    if path.is_dir():
        raise InputError(f"{path} is a directory", "Remove it, or give another --out.")
    Place.of(out, spec, resume=resume).check()
    if static_only and path.exists():
        with suppress(CertificateError):  # what is no certificate holds no run
            if _measured(read(path)):
                raise InputError(
                    f"{path} holds a run, which --static-only would drop",
                    "Give another --out, or remove that file.",
                )
    return path


def _measured(certificate: Certificate) -> bool:
    """Whether it has an iterate of a run."""
    return certificate.trajectory is not None and bool(certificate.trajectory.series)


@contextmanager
def _hinting(out: Path | None, spec: str) -> Iterator[None]:
    """A second Ctrl-C, which ends the program at once, leaves the hint that the run can go on."""
    try:
        yield
    except KeyboardInterrupt:
        from blockframe.dynamics.place import Place

        if out is not None and Place.of(out, spec).checkpoint.exists():
            complain(CAN_GO_ON)
        raise


def _tidied(trajectory: Trajectory, out: Path, spec: str) -> bool:
    """Remove what the run was kept in, if nothing needs it any more.

    Returns whether the run can go on.
    """
    from blockframe.dynamics.ending import was_final
    from blockframe.dynamics.place import Place

    place = Place.of(out, spec)
    if not was_final(trajectory.ended):
        return place.checkpoint.exists()
    if trajectory.journal is None:
        place.remove()
    return False


def _save(certificate: Certificate, path: Path | None) -> tuple[str, CertificateError | None]:
    """Where the certificate was written, and why not where it should be.

    What took long to compute is not given up because a disk has filled up meanwhile: the
    directory for temporary files is tried next.
    """
    from blockframe.certificate.store import write

    if path is None:
        return "", None
    try:
        write(certificate, path)
    except CertificateError as failure:
        elsewhere = Path(tempfile.mkdtemp(prefix="blockframe-")) / path.name
        complain(f"{failure} Trying {elsewhere}.")
        try:
            write(certificate, elsewhere)
        except CertificateError:
            return "", failure
        return str(elsewhere), failure
    return str(path), None
