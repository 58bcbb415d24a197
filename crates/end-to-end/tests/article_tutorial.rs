//! The third article word by word, with `examples/nginx/web.yaml` and `web-parallel.yaml`: scaling, staged updates,
//! both kinds of deletion, parallel management.

use end_to_end::applications::{nginx, old_busybox};
use end_to_end::{Instance, Kubectl, Shell, example, wait_for, with_registry_of};

/// seeds.md C2 to C5, C7, C9 to C19, M1, M3, M4.
#[test]
fn the_tutorial_holds() {
    let (first, second, busybox) = (nginx("0.8"), nginx("0.7"), old_busybox());
    let images = [
        ("library/busybox", "1.28", &busybox),
        ("nginx-slim", "0.7", &second),
        ("google_containers/nginx-slim", "0.8", &first),
    ];
    let (registry, instance) = with_registry_of(&images);
    let kubectl = instance.kubectl();
    let shell = Shell::new(&instance, example("nginx"));

    let watch = shell.watch("kubectl get pods -w -l app=nginx");
    assert_eq!(
        shell.ok("kubectl apply -f web.yaml"),
        "service/nginx created\nstatefulset.apps/web created\n"
    );
    // The registry of the manifest's image has been shut down.
    wait_for("the failed pull", 60, || {
        let rows = watch.rows(3);
        let both = ["web-0 0/1 ErrImagePull", "web-0 0/1 ImagePullBackOff"];
        let all = both
            .iter()
            .all(|row| rows.iter().any(|row_of_watch| row_of_watch == row));
        if all { Ok(()) } else { Err(rows) }
    });
    let described = shell.ok("kubectl describe pod web-0");
    let failed = "Failed to pull image \"k8s.gcr.io/nginx-slim:0.8\"";
    assert!(described.contains(failed), "{described}");
    registry.push("nginx-slim", "0.8", &first);
    kubectl.wait_ready("web", 2);
    let service = shell.ok("kubectl get service nginx");
    assert!(service.contains("ClusterIP   None "), "{service}");
    let set = shell.ok("kubectl get statefulset web");
    assert!(set.contains("web    2/2 "), "{set}");
    watch.check_row_order(&["web-0 1/1 Running", "web-1 0/1 Pending"]);
    watch.check_row_order(&["web-1 0/1 ContainerCreating", "web-1 1/1 Running"]);
    identities(&instance, &shell);

    shell.ok("kubectl delete pod -l app=nginx");
    kubectl.wait_ready("web", 2);
    identities(&instance, &shell);

    scaled(&kubectl, &shell);
    updated(&kubectl, &shell);
    deleted(&kubectl, &shell);
    in_parallel(&kubectl, &shell);
}

/// seeds.md C7, C9 without a command, C10.
fn identities(instance: &Instance, shell: &Shell) {
    let hostnames = "for i in 0 1; do kubectl exec web-$i -- sh -c 'hostname'; done";
    assert_eq!(shell.ok(hostnames), "web-0\nweb-1\n");
    let run = "kubectl run -i --tty --image busybox:1.28 dns-test --restart=Never --rm";
    let printed = shell.on_terminal(run, "nslookup web-0.nginx\nnslookup web-1.nginx\nexit\n");
    assert_eq!(printed.code, 0, "{printed:#?}");
    for pod in ["web-0", "web-1"] {
        let address = instance.kubectl().pod_ip(pod);
        let expected = format!(
            "Name:      {pod}.nginx\nAddress 1: {address} {pod}.nginx.default.svc.cluster.local\n"
        );
        assert!(
            printed.stdout.contains(&expected),
            "{expected}: {printed:#?}"
        );
    }
}

/// seeds.md C5, C12, C13: scaled up in order, down in reverse order.
fn scaled(kubectl: &Kubectl, shell: &Shell) {
    let watch = shell.start("kubectl get pods -w -l app=nginx");
    // The list comes first; the watch continues from the list.
    watch.wait_row("web-1 1/1 Running");
    assert_eq!(
        shell.ok("kubectl scale sts web --replicas=5"),
        "statefulset.apps/web scaled\n"
    );
    kubectl.wait_ready("web", 5);
    watch.wait_row("web-4 1/1 Running");
    let order: Vec<String> = [2, 3, 4]
        .iter()
        .flat_map(|n| ["0/1 Pending", "1/1 Running"].map(|stage| format!("web-{n} {stage}")))
        .collect();
    watch.check_row_order(&order);
    assert_eq!(
        shell.ok(r#"kubectl patch sts web -p '{"spec":{"replicas":3}}'"#),
        "statefulset.apps/web patched\n"
    );
    watch.wait_row("web-3 1/1 Terminating");
    watch.check_row_order(&["web-4 1/1 Terminating", "web-3 1/1 Terminating"]);
    kubectl.wait_ready("web", 3);
    let claims = shell.ok("kubectl get pvc -o name");
    assert_eq!(claims.lines().count(), 5, "claims stay: {claims}");
}

const IMAGES: &str = "for p in 0 1 2; do kubectl get po web-$p --template \
    '{{range $i, $c := .spec.containers}}{{$c.image}}{{end}}'; echo; done";

/// seeds.md C11, C14, C15, C16, C17: a rolling update, a staged update, a canary.
fn updated(kubectl: &Kubectl, shell: &Shell) {
    let patched = "statefulset.apps/web patched\n";
    let strategy = r#"kubectl patch statefulset web -p '{"spec":{"updateStrategy":{"type":"RollingUpdate"}}}'"#;
    let unchanged = "statefulset.apps/web patched (no change)\n";
    assert_eq!(shell.ok(strategy), unchanged, "it is the default");
    let watch = shell.start("kubectl get po -l app=nginx -w");
    watch.wait_row("web-2 1/1 Running");
    let image = r#"kubectl patch statefulset web --type='json' -p='[{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value":"gcr.io/google_containers/nginx-slim:0.8"}]'"#;
    assert_eq!(shell.ok(image), patched);
    let output = shell.ok("kubectl rollout status sts/web");
    let complete = "roll out complete: 3 new pods have been updated...\n";
    assert!(output.ends_with(complete), "{output}");
    let one = "gcr.io/google_containers/nginx-slim:0.8\n";
    assert_eq!(shell.ok(IMAGES), one.repeat(3));
    watch.wait_last_row("web-0 1/1 Running");
    let order: Vec<String> = [2, 1, 0]
        .iter()
        .flat_map(|n| {
            let stages = [
                "1/1 Terminating",
                "0/1 Pending",
                "0/1 ContainerCreating",
                "1/1 Running",
            ];
            stages.map(|stage| format!("web-{n} {stage}"))
        })
        .collect();
    watch.check_row_order(&order);

    let partition = |number: u32| {
        format!(
            r#"kubectl patch statefulset web -p '{{"spec":{{"updateStrategy":{{"type":"RollingUpdate","rollingUpdate":{{"partition":{number}}}}}}}}}'"#
        )
    };
    assert_eq!(shell.ok(&partition(3)), patched);
    let image = r#"kubectl patch statefulset web --type='json' -p='[{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value":"k8s.gcr.io/nginx-slim:0.7"}]'"#;
    assert_eq!(shell.ok(image), patched);
    assert_eq!(
        shell.ok("kubectl delete po web-2"),
        "pod \"web-2\" deleted from default namespace\n"
    );
    kubectl.wait_ready("web", 3);
    assert_eq!(shell.ok(IMAGES), one.repeat(3), "below the partition");
    assert_eq!(shell.ok(&partition(2)), patched);
    shell.ok("kubectl rollout status sts/web");
    let canary = "k8s.gcr.io/nginx-slim:0.7\n";
    assert_eq!(shell.ok(IMAGES), one.repeat(2) + canary);
    kubectl.wait_ready("web", 3);
}

/// seeds.md C2, C11, C18, C19: deletion without and with the pods.
fn deleted(kubectl: &Kubectl, shell: &Shell) {
    let orphaned = shell.run("kubectl delete statefulset web --cascade=false");
    assert_eq!(
        orphaned.stdout, "statefulset.apps \"web\" deleted from default namespace\n",
        "{orphaned:#?}"
    );
    let deprecated = "--cascade=false is deprecated";
    assert!(orphaned.stderr.contains(deprecated), "{orphaned:#?}");
    let names = "kubectl get pods -l app=nginx -o name";
    assert_eq!(shell.ok(names), "pod/web-0\npod/web-1\npod/web-2\n");
    shell.ok("kubectl delete pod web-0");
    assert_eq!(shell.ok(names), "pod/web-1\npod/web-2\n");
    let watch = shell.start("kubectl get pods -w -l app=nginx");
    watch.wait_row("web-2 1/1 Running");
    assert_eq!(
        shell.ok("kubectl apply -f web.yaml"),
        "service/nginx unchanged\nstatefulset.apps/web created\n"
    );
    watch.wait_row("web-2 1/1 Terminating");
    watch.check_row_order(&[
        "web-1 1/1 Running",
        "web-0 0/1 Pending",
        "web-0 1/1 Running",
        "web-2 1/1 Terminating",
    ]);
    kubectl.wait_ready("web", 2);
    shell.ok("kubectl rollout status sts/web");
    let watch = shell.start("kubectl get pods -w -l app=nginx");
    watch.wait_row("web-1 1/1 Running");
    assert_eq!(
        shell.ok("kubectl delete statefulset web"),
        "statefulset.apps \"web\" deleted from default namespace\n"
    );
    watch.wait_row("web-0 1/1 Terminating");
    watch.wait_row("web-1 1/1 Terminating");
    wait_deleted(kubectl);
    shell.ok("kubectl get service nginx");
    assert_eq!(
        shell.ok("kubectl delete service nginx"),
        "service \"nginx\" deleted from default namespace\n"
    );
}

#[track_caller]
fn wait_deleted(kubectl: &Kubectl) {
    wait_for("the pods to be deleted", 90, || {
        let pods = kubectl.ok(&["get", "pods", "-o", "name"]);
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
}

/// seeds.md C2, C19, M4: all pods at once; a second application changes nothing.
fn in_parallel(kubectl: &Kubectl, shell: &Shell) {
    let watch = shell.watch("kubectl get po -lapp=nginx -w");
    assert_eq!(
        shell.ok("kubectl apply -f web-parallel.yaml"),
        "service/nginx created\nstatefulset.apps/web created\n"
    );
    assert_eq!(
        shell.ok("kubectl apply -f web-parallel.yaml"),
        "service/nginx unchanged\nstatefulset.apps/web configured\n",
        "claim templates get defaults, which a client-side apply takes for a difference"
    );
    kubectl.wait_ready("web", 2);
    watch.wait_row("web-1 1/1 Running");
    let rows = watch.rows(3);
    let first = |row: &str| rows.iter().position(|printed_row| printed_row == row);
    let running = first("web-0 1/1 Running");
    assert!(first("web-1 0/1 Pending") < running, "{rows:#?}");
    assert_eq!(
        shell.ok("kubectl delete sts web"),
        "statefulset.apps \"web\" deleted from default namespace\n"
    );
    assert_eq!(
        shell.ok("kubectl delete svc nginx"),
        "service \"nginx\" deleted from default namespace\n"
    );
    wait_deleted(kubectl);
}
