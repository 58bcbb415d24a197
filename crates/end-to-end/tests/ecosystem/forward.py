"""Exec and port-forward with kr8s, over WebSockets without a subprotocol; the only argument is the kubeconfig."""

import sys

import httpx
import kr8s
from kr8s.objects import Pod

api = kr8s.api(kubeconfig=sys.argv[1])
container = {"name": "hello", "image": "mainstay/hello"}
body = {"metadata": {"name": "forwarded"}, "spec": {"containers": [container]}}
pod = Pod({"apiVersion": "v1", "kind": "Pod", **body}, api=api)
pod.create()
pod.wait("condition=Ready", timeout=240)
printed = pod.exec(["/mainstay", "version"]).stdout
assert printed.startswith(b"mainstay "), printed
with pod.portforward(remote_port=80, local_port="auto") as port:
    response = httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=60)
    assert response.status_code == 200, response
pod.delete()
print("kr8s: fine")
