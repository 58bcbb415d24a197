"""Two operators with kopf that know of each other by peering; the only argument is the kubeconfig."""

import os
import pathlib
import subprocess
import sys
import time

from kubernetes import client, config, utils
from kubernetes.client.exceptions import ApiException

FOLDER = pathlib.Path(__file__).parent
PATHS = ("walks.example.com", "v1", "default", "paths")
PEERING = ("kopf.dev", "v1", "clusterkopfpeerings")


def until(what, probe):
    """Waits for a true result of the probe, for up to four minutes."""
    end, last = time.monotonic() + 240, None
    while time.monotonic() < end:
        try:
            last = probe()
            if last:
                return last
        except ApiException as error:
            last = error
        time.sleep(0.2)
    raise AssertionError(f"waited for {what}: {last}")


def operator(priority):
    """Starts an operator, which lists itself in the status of the peering."""
    environment = {**os.environ, "KUBECONFIG": sys.argv[1], "PRIORITY": str(priority)}
    command = [sys.executable, "-m", "kopf", "run", "--all-namespaces", FOLDER / "path_operator.py"]
    return subprocess.Popen(command, env=environment)


def main():
    config.load_kube_config(sys.argv[1])
    core, custom = client.CoreV1Api(), client.CustomObjectsApi()
    utils.create_from_yaml(client.ApiClient(), str(FOLDER / "definitions.yaml"))
    peering = {"apiVersion": "kopf.dev/v1", "kind": "ClusterKopfPeering"}
    peering["metadata"] = {"name": "walks"}
    until("the definition", lambda: custom.create_cluster_custom_object(*PEERING, peering))
    until("the other definition", lambda: custom.list_namespaced_custom_object(*PATHS))

    def priorities():
        status = custom.get_cluster_custom_object(*PEERING, "walks").get("status", {})
        return sorted(peer["priority"] for peer in status.values())

    def create(name, steps):
        path = {"apiVersion": "walks.example.com/v1", "kind": "Path", "metadata": {"name": name}}
        custom.create_namespaced_custom_object(*PATHS, {**path, "spec": {"steps": steps}})

    words = lambda name: core.read_namespaced_config_map(name, "default").data
    running = [operator(10)]
    try:
        until("the first operator", lambda: priorities() == [10])
        create("one", 3)
        until("a copy", lambda: words("one") == {"steps": "3", "priority": "10"})
        path = until("a status", lambda: (
            found := custom.get_namespaced_custom_object(*PATHS, "one")).get("status") and found)
        assert path["status"]["create"] == {"copy": "one"}, path
        assert path["metadata"]["finalizers"] == ["walks.example.com/finalizer"], path
        until("an event", lambda: [
            event for event in core.list_namespaced_event("default").items
            if event.reason == "Copied" and event.involved_object.name == "one"])
        change = {"spec": {"steps": 5}}
        custom.patch_namespaced_custom_object(*PATHS, "one", change)
        until("the change", lambda: words("one")["steps"] == "5")

        # The first operator pauses for the second one, which has a higher priority.
        running.append(operator(20))
        until("the second operator", lambda: priorities() == [10, 20])
        create("two", 1)
        until("a copy", lambda: words("two") == {"steps": "1", "priority": "20"})
        # An operator that exits in order leaves the peering, and the first one resumes.
        running[1].terminate()
        running.pop().wait()
        until("the first operator alone", lambda: priorities() == [10])
        for name in ("one", "two"):
            custom.delete_namespaced_custom_object(*PATHS, name)
        until("no paths", lambda: not custom.list_namespaced_custom_object(*PATHS)["items"])
        for name in ("farewell-one", "farewell-two"):
            core.read_namespaced_config_map(name, "default")
    finally:
        for process in running:
            process.terminate()
            process.wait()
    print("kopf: fine")


main()
