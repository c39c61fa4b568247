"""`bake upgrade`: give the nodes a new image."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from generator.cli import change, engines
from generator.cli.common import image_cache, load, progress_of, reporter
from generator.cli.options import option, refresh_option, spec_options, up_options, yes_option
from generator.cli.reach import reach
from generator.cli.root import bake

if TYPE_CHECKING:
    from generator.config.spec import ClusterSpec
    from generator.image.base import BootImage
    from generator.progress import Report


@bake.command()
@refresh_option
@option("--to", metavar="IMAGE", help="Digest of an image in the cache, for example to return to an older image.")
@yes_option
@spec_options
@up_options
def upgrade(refresh: bool, to: str | None, **options: Any) -> None:
    """Give all nodes a new image, one node after the other: a new kernel, a new etcd, all security updates.

    The command first checks etcd's releases and saves a snapshot. Then it exchanges the root disk of each node, the
    leader last. The disk with etcd's data stays, so the node keeps its member id and its data. A node without such a
    disk is replaced: it gets its data from the other members. The command stops at the first node that does not become
    healthy within --wait seconds. Run the command again without --refresh to go on, or return to the previous image
    with --to. Until the next upgrade, new and replaced nodes get the image of --to, too.

    The new image is the newest image in the cache, or with --refresh a new image. `bake image` shows the versions. For
    your own image, give --image. bake upgrades etcd by at most one series. It returns to an older series only with
    --to, and only while at least one member still runs the older series.

    \b
    Examples:
      bake upgrade --refresh                      build a new image, and give it to all nodes
      bake upgrade --image debian-13-new.qcow2
      bake upgrade --to a085e7c9b08d5943          return to an older image
    """
    from generator.errors import BakeError
    from generator.image.base import cached_images
    from generator.operations.running import upgrade as checks
    from generator.operations.running.change import started_cluster
    from generator.operations.running.cleaning import clean_cache
    from generator.store.folder import Store

    loaded = load({**options, "quiet": True})
    spec, was = loaded.spec, loaded.existing.spec if loaded.existing else None
    cluster = started_cluster(Store(options["out"], spec.name))
    reach(options, cluster.plan)
    image = _image(spec, options, refresh=refresh, to=to)
    back = to is not None
    warning = checks.check_releases(spec, image, checks.running_releases(cluster), back=back)
    if warning:
        reporter(options)(f"warning: {warning}")
    if back:
        options |= {"fields": checks.fields_of(spec, image), "based_on": loaded.digest, "reason": "--to"}
    engine = engines.make_engine(options, reporter(options), cluster)
    optional = checks.needs_no_snapshot(len(cluster.plan.nodes), to=to, image=options["image"])
    before, has_begun = engine.machines(), False

    def prepare(report: Report) -> None:
        nonlocal has_begun
        checks.take_snapshot(cluster, now=datetime.now(UTC), optional=optional, report=report)
        has_begun = True

    try:
        wish = change.Upgrade(image=image, back=back, prepare=prepare)
        change.run_apply(options, lambda _left: f"upgrade --to {to}" if to else "upgrade", upgrade=wish)
    except BakeError as error:
        if has_begun and was and not back:
            cached = {one.digest for one in cached_images(image_cache(options))}
            checks.add_way_back(error, cluster, before, image, cached=cached, was=was, new=spec)
        raise
    for name in engine.remove_unused_images():
        reporter(options)(f"removed the old image {name} from the storage pool")
    connect = partial(engines.connect, {**options, "name": spec.name})  # the name may come from --config
    clean_cache(image_cache(options), connect, now=datetime.now(UTC), report=reporter(options))


def _image(spec: ClusterSpec, options: Mapping[str, Any], *, refresh: bool, to: str | None) -> BootImage:
    from generator.errors import InputError
    from generator.image.base import cached_images, image_with
    from generator.operations.up import boot_image

    if to is None:
        with progress_of((), options) as progress:
            return boot_image(spec, image_cache(options), progress.line, refresh=refresh)
    if refresh:
        raise InputError.one("--to", "cannot be used with --refresh", "leave one of them out")
    if options["image"] is not None:
        raise InputError.one("--to", "cannot be used with --image", "leave one of them out")
    if spec.vm.image and not any(one.digest.startswith(to) for one in cached_images(image_cache(options))):
        rule = f"the image {to} is not in bake's cache, and the nodes boot your image {spec.vm.image}"
        raise InputError.one("--to", rule, "give your own older image with --image")
    return image_with(image_cache(options), to)
