"""A tour with the official Python client; the only argument is the kubeconfig."""

import json
import sys
import threading

import websocket
from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward, stream

NAMESPACE = "tour"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


def expect_status(code, reason, call):
    """The call is refused with a Status of this code and reason; returns the Status."""
    try:
        call()
    except ApiException as refusal:
        status = json.loads(refusal.body)
        assert refusal.status == code, refusal
        assert refusal.headers["Content-Type"] == "application/json", refusal.headers
        assert (status["kind"], status["status"]) == ("Status", "Failure"), status
        assert (status["code"], status["reason"]) == (code, reason), status
        return status
    raise AssertionError(f"{code} {reason} was expected")


def config_maps(core):
    """Create, read, list by pages and labels, replace, the four patches, delete."""
    make = lambda name, **labels: client.V1ConfigMap(
        metadata=client.V1ObjectMeta(name=name, labels=labels), data={"a": "1"}
    )
    for name in ("one", "two", "three"):
        core.create_namespaced_config_map(NAMESPACE, make(name, odd=str(name != "two")))
    found = core.list_namespaced_config_map(NAMESPACE, label_selector="odd=True")
    assert sorted(item.metadata.name for item in found.items) == ["one", "three"]
    names, token = [], None
    while token != "":
        page = core.list_namespaced_config_map(NAMESPACE, limit=2, _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue or ""
    assert names == sorted(["kube-root-ca.crt", "one", "three", "two"]), names

    read = core.read_namespaced_config_map("one", NAMESPACE)
    assert read.metadata.creation_timestamp.tzinfo is not None
    read.data["b"] = "2"
    replaced = core.replace_namespaced_config_map("one", NAMESPACE, read)
    assert replaced.data == {"a": "1", "b": "2"}
    stale = lambda: core.replace_namespaced_config_map("one", NAMESPACE, read)
    conflict = expect_status(409, "Conflict", stale)
    assert conflict["details"] == {"name": "one", "kind": "configmaps"}, conflict

    patch = lambda body, kind, **more: core.patch_namespaced_config_map(
        "one", NAMESPACE, body, _content_type=kind, **more
    )
    assert patch({"data": {"b": None}}, MERGE).data == {"a": "1"}
    assert patch({"data": {"c": "3"}}, STRATEGIC).data == {"a": "1", "c": "3"}
    operations = [
        {"op": "test", "path": "/data/c", "value": "3"},
        {"op": "replace", "path": "/data/c", "value": "4"},
    ]
    assert patch(operations, "application/json-patch+json").data["c"] == "4"
    expect_status(422, "Invalid", lambda: patch(operations, "application/json-patch+json"))
    applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}}
    applied["data"] = {"c": "5"}
    refused = expect_status(409, "Conflict", lambda: patch(applied, APPLY, field_manager="tour"))
    assert refused["details"]["causes"][0]["reason"] == "FieldManagerConflict", refused
    owned = patch(applied, APPLY, field_manager="tour", force=True)
    assert owned.data["c"] == "5"
    managers = {(entry.manager, entry.operation) for entry in owned.metadata.managed_fields}
    assert ("tour", "Apply") in managers, managers

    done = core.delete_namespaced_config_map("three", NAMESPACE)
    assert done.status == "Success", done


def errors(core):
    """What is refused comes with the Status that clients look into."""
    missing = expect_status(
        404, "NotFound", lambda: core.read_namespaced_config_map("none", NAMESPACE)
    )
    assert missing["message"] == 'configmaps "none" not found', missing
    assert missing["details"] == {"name": "none", "kind": "configmaps"}, missing
    again = {"metadata": {"name": "one"}}
    exists = expect_status(
        409, "AlreadyExists", lambda: core.create_namespaced_config_map(NAMESPACE, again)
    )
    assert exists["message"] == 'configmaps "one" already exists', exists
    bad = {"metadata": {"name": "Not_A_Name"}}
    invalid = expect_status(
        422, "Invalid", lambda: core.create_namespaced_config_map(NAMESPACE, bad)
    )
    assert invalid["details"]["causes"][0]["field"] == "metadata.name", invalid
    nobody = client.ApiClient(configuration=core.api_client.configuration)
    nobody.set_default_header("Impersonate-User", "nobody")
    forbidden = expect_status(
        403, "Forbidden", lambda: client.CoreV1Api(nobody).list_namespaced_secret(NAMESPACE)
    )
    assert 'User "nobody" cannot list resource "secrets"' in forbidden["message"], forbidden


def watching(core):
    """A watch from a list tells what happened since, in order, and can be ended."""
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version

    def change():
        core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "seen"}})
        core.patch_namespaced_config_map("seen", NAMESPACE, {"data": {"x": "y"}})
        core.delete_namespaced_config_map("seen", NAMESPACE)

    changes = threading.Thread(target=change)
    changes.start()
    watcher, events = watch.Watch(), []
    for event in watcher.stream(
        core.list_namespaced_config_map, NAMESPACE, resource_version=version, timeout_seconds=20
    ):
        events.append((event["type"], event["object"].metadata.name))
        if event["type"] == "DELETED":
            watcher.stop()
    changes.join()
    assert events == [("ADDED", "seen"), ("MODIFIED", "seen"), ("DELETED", "seen")], events


def watching_by_web_socket(core):
    """findings-2 K2: each event is a message. Clients in Java and browsers watch so."""
    settings = core.api_client.configuration
    options = {
        "ca_certs": settings.ssl_ca_cert, "certfile": settings.cert_file, "keyfile": settings.key_file
    }
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps"

    def connect(query):
        address = settings.host.replace("https", "wss", 1) + f"{path}?watch=true&{query}"
        return websocket.create_connection(address, sslopt=options, timeout=60)

    socket = connect("fieldSelector=metadata.name%3Dseen")
    socket.ping()
    core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "seen"}})
    core.delete_namespaced_config_map("seen", NAMESPACE)
    events = [json.loads(socket.recv()) for _ in range(2)]
    kinds = [(event["type"], event["object"]["metadata"]["name"]) for event in events]
    assert kinds == [("ADDED", "seen"), ("DELETED", "seen")], events
    socket.close()
    # The watch ends by itself, and the connection in order.
    socket = connect("fieldSelector=metadata.name%3Dnone&timeoutSeconds=1")
    opcode, data = socket.recv_data()
    assert (opcode, data) == (websocket.ABNF.OPCODE_CLOSE, b"\x03\xe8"), (opcode, data)
    socket.close()
    # A refusal is an ordinary response.
    try:
        connect("fieldSelector=spec.x%3Dy")
        raise AssertionError("a field without a selector was accepted")
    except websocket.WebSocketBadStatusException as refusal:
        assert refusal.status_code == 400, refusal


def send_and_leave(core):
    """findings-2 K1: what was sent arrives, although the client closes right after it."""
    sent = "x" * 10000
    for number in range(20):
        path = f"/tmp/sent-{number}"
        session = stream(core.connect_get_namespaced_pod_exec, "web-0", NAMESPACE,
                         command=["sh", "-c", f"cat > {path}.new; mv {path}.new {path}"],
                         stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False)
        session.write_stdin(sent)
        session.close()
    for number in range(20):
        path = f"/tmp/sent-{number}"
        script = f"until [ -e {path} ]; do sleep 0.1; done; wc -c < {path}"
        got = stream(core.connect_get_namespaced_pod_exec, "web-0", NAMESPACE,
                     command=["sh", "-c", script],
                     stdin=False, stdout=True, stderr=True, tty=False)
        assert got.strip() == str(len(sent)), (number, got)


def stateful_set(core, apps):
    """Create, wait by watch, exec, log, port-forward, scale, delete with its pods."""
    probe = {"httpGet": {"path": "/healthz", "port": 80}, "periodSeconds": 1}
    container = {"name": "hello", "image": "mainstay/hello", "readinessProbe": probe}
    labels = {"app": "web"}
    pod = {"terminationGracePeriodSeconds": 2, "containers": [container]}
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"serviceName": "web", "replicas": 1, "selector": {"matchLabels": labels}}
    body = {"metadata": {"name": "web"}, "spec": {**spec, "template": template}}
    made = apps.create_namespaced_stateful_set(NAMESPACE, body)
    assert made.spec.pod_management_policy == "OrderedReady"
    wait_ready(apps, 1)

    words = ["/mainstay", "version"]
    said = stream(core.connect_get_namespaced_pod_exec, "web-0", NAMESPACE, command=words,
                  stdin=False, stdout=True, stderr=True, tty=False)
    assert said.startswith("mainstay "), said
    session = stream(core.connect_get_namespaced_pod_exec, "web-0", NAMESPACE,
                     command=["/mainstay", "nonsense"], stdin=False, stdout=True, stderr=True,
                     tty=False, _preload_content=False)
    session.run_forever(timeout=20)
    assert session.returncode == 2, session.returncode
    assert "nonsense" in session.read_stderr()
    send_and_leave(core)
    # As it came: this version of the client shows the text of a log as Python shows bytes.
    log = core.read_namespaced_pod_log("web-0", NAMESPACE, tail_lines=1, _preload_content=False)
    assert log.data == b"web-0 listens on 0.0.0.0:80\n", log.data
    forward = portforward(core.connect_get_namespaced_pod_portforward, "web-0", NAMESPACE,
                          ports="80")
    socket = forward.socket(80)
    socket.settimeout(20)
    socket.sendall(b"GET /healthz HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
    answer = b""
    while part := socket.recv(4096):
        answer += part
    assert answer.startswith(b"HTTP/1.1 200 OK"), answer

    scale = apps.patch_namespaced_stateful_set_scale("web", NAMESPACE, {"spec": {"replicas": 2}})
    assert scale.spec.replicas == 2
    wait_ready(apps, 2)
    assert apps.read_namespaced_stateful_set_scale("web", NAMESPACE).status.replicas == 2
    immutable = {"spec": {"serviceName": "other"}}
    expect_status(
        422, "Invalid", lambda: apps.patch_namespaced_stateful_set("web", NAMESPACE, immutable)
    )
    apps.delete_namespaced_stateful_set("web", NAMESPACE, propagation_policy="Foreground")
    until(apps.list_namespaced_stateful_set, lambda event: event["type"] == "DELETED")
    assert core.list_namespaced_pod(NAMESPACE).items == []


def wait_ready(apps, replicas):
    def ready(event):
        seen = event["object"]
        return (
            seen.status.observed_generation == seen.metadata.generation
            and (seen.status.ready_replicas or 0) == replicas
            and seen.status.replicas == replicas
        )

    until(apps.list_namespaced_stateful_set, ready)


def until(listing, wanted):
    """Watches the set `web` for an event."""
    watcher = watch.Watch()
    for event in watcher.stream(
        listing, NAMESPACE, field_selector="metadata.name=web", timeout_seconds=60
    ):
        if wanted(event):
            watcher.stop()
            return
    raise AssertionError("the event did not come in a minute")


def kind_of_its_own(api):
    """A CustomResourceDefinition, its objects by the custom-objects API."""
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {"petals": {"type": "integer", "minimum": 3}},
            },
            "status": {"type": "object", "properties": {"open": {"type": "boolean"}}},
        },
    }
    version = {"name": "v1", "served": True, "storage": True, "subresources": {"status": {}}}
    version["schema"] = {"openAPIV3Schema": schema}
    names = {"kind": "Flower", "plural": "flowers", "singular": "flower"}
    body = {
        "metadata": {"name": "flowers.tour.example.com"},
        "spec": {"group": "tour.example.com", "scope": "Namespaced", "names": names},
    }
    body["spec"]["versions"] = [version]
    extensions = client.ApiextensionsV1Api(api)
    extensions.create_custom_resource_definition(body)
    watcher = watch.Watch()
    for event in watcher.stream(extensions.list_custom_resource_definition, timeout_seconds=20):
        # There are others, which came with the cluster.
        if event["object"].metadata.name != body["metadata"]["name"]:
            continue
        conditions = event["object"].status.conditions or []
        if any(c.type == "Established" and c.status == "True" for c in conditions):
            watcher.stop()

    custom = client.CustomObjectsApi(api)
    where = ("tour.example.com", "v1", NAMESPACE, "flowers")
    rose = {"apiVersion": "tour.example.com/v1", "kind": "Flower", "metadata": {"name": "rose"}}
    rose["spec"] = {"petals": 5, "unknown": True}
    made = custom.create_namespaced_custom_object(*where, rose)
    assert made["spec"] == {"petals": 5}, made
    bad = {**rose, "metadata": {"name": "bad"}, "spec": {"petals": 1}}
    expect_status(422, "Invalid", lambda: custom.create_namespaced_custom_object(*where, bad))
    custom.patch_namespaced_custom_object(*where, "rose", {"spec": {"petals": 6}})
    opened = custom.patch_namespaced_custom_object_status(
        *where, "rose", {"status": {"open": True}}
    )
    assert (opened["spec"]["petals"], opened["status"]) == (6, {"open": True}), opened
    assert len(custom.list_namespaced_custom_object(*where)["items"]) == 1


def by_discovery(api):
    """The dynamic client finds kinds by discovery, built in or not."""
    found = dynamic.DynamicClient(api)
    flowers = found.resources.get(api_version="tour.example.com/v1", kind="Flower")
    assert flowers.get(name="rose", namespace=NAMESPACE).spec.petals == 6
    deployments = found.resources.get(api_version="apps/v1", kind="Deployment")
    assert deployments.namespaced and "watch" in deployments.verbs
    config_maps = found.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}}
    body["data"] = {"x": "1"}
    config_maps.server_side_apply(body, namespace=NAMESPACE, field_manager="tour")
    again = config_maps.server_side_apply(body, namespace=NAMESPACE, field_manager="tour")
    assert again.data.x == "1"
    flowers.delete(name="rose", namespace=NAMESPACE)


def reviews(api):
    """What may I do, and who am I?"""
    review = lambda user, verb: {
        "spec": {
            "user": user,
            "resourceAttributes": {"verb": verb, "resource": "pods", "namespace": NAMESPACE},
        }
    }
    authorization = client.AuthorizationV1Api(api)
    own = review(None, "delete")
    del own["spec"]["user"]
    assert authorization.create_self_subject_access_review(own).status.allowed
    other = authorization.create_subject_access_review(review("jane", "list"))
    assert not other.status.allowed
    rights = client.RbacAuthorizationV1Api(api)
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    rights.create_namespaced_role(NAMESPACE, {"metadata": {"name": "lists"}, "rules": [rule]})
    binding = {"metadata": {"name": "lists"}, "subjects": [{"kind": "User", "name": "jane"}]}
    binding["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "lists"}
    rights.create_namespaced_role_binding(NAMESPACE, binding)
    assert authorization.create_subject_access_review(review("jane", "list")).status.allowed
    rules = {"spec": {"namespace": NAMESPACE}}
    listed = authorization.create_self_subject_rules_review(rules).status
    assert not listed.incomplete and any("*" in rule.verbs for rule in listed.resource_rules)
    me = client.AuthenticationV1Api(api).create_self_subject_review({})
    assert me.status.user_info.username, me


def main():
    api = config.new_client_from_config(sys.argv[1])
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    assert client.VersionApi(api).get_code().major == "1"
    core.create_namespace({"metadata": {"name": NAMESPACE}})
    for name, part in (
        ("config maps", lambda: config_maps(core)),
        ("errors", lambda: errors(core)),
        ("watching", lambda: watching(core)),
        ("watching by WebSocket", lambda: watching_by_web_socket(core)),
        ("stateful set", lambda: stateful_set(core, apps)),
        ("a kind of its own", lambda: kind_of_its_own(api)),
        ("by discovery", lambda: by_discovery(api)),
        ("reviews", lambda: reviews(api)),
    ):
        part()
        print(f"{name}: fine", flush=True)
    core.delete_namespace(NAMESPACE)


main()
