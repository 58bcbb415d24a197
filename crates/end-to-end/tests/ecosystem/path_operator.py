"""An operator with kopf: it copies the steps of each Path into a ConfigMap, and writes a farewell."""

import os

import kopf
from kubernetes import client


@kopf.on.startup()
def configure(settings, **_):
    settings.peering.name = "walks"
    settings.peering.mandatory = True
    settings.peering.priority = int(os.environ["PRIORITY"])
    settings.persistence.finalizer = "walks.example.com/finalizer"


@kopf.on.create("walks.example.com", "v1", "paths")
def create(body, spec, name, namespace, **_):
    words = {"steps": str(spec["steps"]), "priority": os.environ["PRIORITY"]}
    copy = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": words}
    kopf.adopt(copy)
    client.CoreV1Api().create_namespaced_config_map(namespace, copy)
    kopf.info(body, reason="Copied", message="the steps are copied")
    return {"copy": name}


@kopf.on.update("walks.example.com", "v1", "paths", field="spec.steps")
def update(new, name, namespace, **_):
    change = {"data": {"steps": str(new)}}
    client.CoreV1Api().patch_namespaced_config_map(name, namespace, change)


@kopf.on.delete("walks.example.com", "v1", "paths")
def delete(name, namespace, **_):
    farewell = {"metadata": {"name": f"farewell-{name}"}}
    client.CoreV1Api().create_namespaced_config_map(namespace, farewell)
