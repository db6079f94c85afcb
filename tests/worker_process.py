"""A worker process with a fake detector: `python -m tests.worker_process analyse|deliver`.

Settings come from HIPNODE_* as for the real commands; the model package from HIPNODE_PACKAGES.
HIPNODE_TEST_LOOK_S: seconds the detector takes for one batch.
"""

import os
import sys
import time


def main() -> None:
    # Here, because a spawned decoding child imports this module again.
    from hipnode import logs
    from hipnode.packages import find_packages
    from hipnode.settings import load_settings
    from tests.pipeline import FakeDetector
    from workers.analyse_job import Loaded
    from workers.runtime import run_analyse_worker, start_deliver_worker

    settings = load_settings()
    logs.configure(settings.log_json)
    if sys.argv[1] == "deliver":
        start_deliver_worker(settings)
        return
    detector = FakeDetector()
    detector.before = lambda _: time.sleep(float(os.environ.get("HIPNODE_TEST_LOOK_S", "0")))
    packages = find_packages(settings.package_folders, shipped=False)
    run_analyse_worker(
        settings, {id_: Loaded(package, detector) for id_, package in packages.items()}, "fake"
    )


if __name__ == "__main__":
    main()
