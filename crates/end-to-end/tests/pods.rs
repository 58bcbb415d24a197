//! Pods and Services in full, on real containers: addresses, init containers, hooks, probes,
//! limits, volumes (docs/pod-spec.md; statefulset.md §10, §12).

use end_to_end::{text, wait_for, wait_for_text, with_images};

/// ClusterIP and NodePort, from pods and from the node.
#[test]
fn service_addresses() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    kubectl.ok(&[
        "run",
        "server",
        "--image=nginx:1",
        "--labels=app=server",
        "--port=80",
    ]);
    kubectl.ok(&[
        "expose",
        "pod",
        "server",
        "--name=front",
        "--port=8080",
        "--target-port=80",
        "--type=NodePort",
    ]);
    // busybox is linked statically and cannot resolve names everywhere; curl can.
    kubectl.ok(&[
        "run",
        "client",
        "--image=nginx:1",
        "--command",
        "--",
        "sh",
        "-c",
        "trap 'exit 0' TERM; sleep 1000000 & wait",
    ]);
    kubectl.wait_pods_ready(&["pod/server", "pod/client"]);
    let service = kubectl.json(&["get", "service", "front"]);
    let address = format!("{}:8080", text(&service, "/spec/clusterIP"));
    let port = service["spec"]["ports"][0]["nodePort"]
        .as_u64()
        .expect("a node port");
    let host = kubectl.node_address();
    for target in [
        address.clone(),
        "front:8080".to_owned(),
        format!("{host}:{port}"),
    ] {
        let get = format!("curl -s -m 5 -o /dev/null http://{target}/ && echo reached");
        wait_for(&format!("{target} from a pod"), 60, || {
            let output = kubectl.run(&["exec", "client", "--", "sh", "-c", &get]);
            if output.stdout == "reached\n" {
                Ok(())
            } else {
                Err(output)
            }
        });
    }
    for target in [address, format!("{host}:{port}")] {
        wait_for(&format!("{target} from the node"), 60, || {
            end_to_end::registry::curl(&["--fail", "-o", "/dev/null", &format!("http://{target}/")])
        });
    }
    // A request of the server to itself through its own Service arrives (hairpin).
    let response = kubectl.ok(&[
        "exec",
        "server",
        "--",
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "front:8080",
    ]);
    assert_eq!(response, "200");
}

/// Init containers, hooks, probes, limits, volumes (docs/pod-spec.md; statefulset.md §12).
#[test]
fn pods_in_full() {
    let (_registry, instance) = with_images();
    let kubectl = instance.kubectl();
    kubectl.ok(&[
        "create",
        "configmap",
        "settings",
        "--from-literal=colour=green",
    ]);
    kubectl.ok(&[
        "create",
        "secret",
        "generic",
        "keys",
        "--from-literal=key=s3cret",
    ]);
    let host = instance.data().with_file_name("on-the-host");
    kubectl.apply(&FULL_POD.replace("ON_THE_HOST", &host.to_string_lossy()));
    kubectl.wait_pods_ready(&["pod/full"]);
    let read = |command: &str| kubectl.ok(&["exec", "full", "--", "sh", "-c", command]);
    assert_eq!(read("cat /shared/first"), "from init\n");
    assert_eq!(read("cat /shared/started"), "post-start\n");
    assert_eq!(
        read("echo $COLOUR $KEY $NAME $IP_SET $LIMIT"),
        "green s3cret full yes 64\n"
    );
    assert_eq!(read("cat /etc/settings/colour"), "green");
    assert_eq!(read("cat /etc/keys/key"), "s3cret");
    assert_eq!(read("cat /etc/podinfo/labels"), "app=\"full\"");
    assert_eq!(read("cat /host/from-host"), "on the host\n");
    let token = read("cat /var/run/secrets/kubernetes.io/serviceaccount/token");
    assert_eq!(token.split('.').count(), 3, "a JWT: {token}");
    assert_eq!(
        read("cat /var/run/secrets/kubernetes.io/serviceaccount/namespace"),
        "default"
    );
    assert_eq!(read("id -u"), "1000\n");
    assert!(read("cat /etc/hosts").contains("full"));
    kubectl.ok(&[
        "create",
        "configmap",
        "settings",
        "--from-literal=colour=blue",
        "-o",
        "yaml",
        "--dry-run=client",
    ]);
    let pod = kubectl.pod("full");
    assert_eq!(pod["status"]["qosClass"], "Burstable");

    // A failing liveness probe restarts the container; a failing readiness probe does not.
    kubectl.ok(&["exec", "full", "--", "rm", "/shared/ready"]);
    kubectl.ok(&[
        "wait",
        "--for=condition=Ready=false",
        "pod/full",
        "--timeout=300s",
    ]);
    assert_eq!(
        kubectl.pod("full")["status"]["containerStatuses"][0]["restartCount"],
        0
    );
    kubectl.ok(&["exec", "full", "--", "rm", "/shared/alive"]);
    wait_for("the liveness probe to restart the container", 60, || {
        let status =
            kubectl.get_for_wait(&["pod", "full"])?["status"]["containerStatuses"][0].clone();
        if status["restartCount"].as_u64() >= Some(1) {
            Ok(())
        } else {
            Err(status)
        }
    });
    let events = [
        "get",
        "events",
        "--field-selector",
        "involvedObject.name=full",
    ];
    wait_for_text("Unhealthy", 60, || kubectl.ok(&events));
}

const FULL_POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: full, labels: {app: full}}
spec:
  terminationGracePeriodSeconds: 2
  initContainers:
  - name: first
    image: busybox:1
    command: [sh, -c, 'echo from init > /shared/first; touch /shared/ready /shared/alive; chmod 777 /shared; echo on the host > /host/from-host']
    volumeMounts: [{name: shared, mountPath: /shared}, {name: host, mountPath: /host}]
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, 'trap \"exit 0\" TERM; sleep 1000000 & wait']
    securityContext: {runAsUser: 1000}
    resources: {limits: {memory: 64Mi, cpu: 500m}, requests: {memory: 16Mi, cpu: 10m}}
    lifecycle:
      postStart: {exec: {command: [sh, -c, 'echo post-start > /shared/started']}}
      preStop: {exec: {command: [sh, -c, 'echo bye']}}
    readinessProbe: {exec: {command: [test, -e, /shared/ready]}, periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 1}
    livenessProbe: {exec: {command: [test, -e, /shared/alive]}, periodSeconds: 1, timeoutSeconds: 60, failureThreshold: 2}
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: KEY, valueFrom: {secretKeyRef: {name: keys, key: key}}}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: IP_SET, value: 'yes'}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: settings, mountPath: /etc/settings}
    - {name: keys, mountPath: /etc/keys}
    - {name: podinfo, mountPath: /etc/podinfo}
    - {name: host, mountPath: /host}
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys}}
  - {name: podinfo, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: host, hostPath: {path: ON_THE_HOST, type: DirectoryOrCreate}}
";
