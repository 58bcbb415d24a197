//! `describe`, `events`, and the commands about the cluster, by the standard client (kubectl.md 4 and 6).

use end_to_end::stateful_set::{web, web_with_claims};
use end_to_end::{Instance, Kubectl, text, wait_for, wait_for_text, words};
use serde_json::json;

#[test]
fn describing_and_administering() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    kubectl.apply(&web_with_claims(2).to_string());
    kubectl.ok(&["create", "service", "clusterip", "web", "--tcp=80"]);
    kubectl.wait_ready("web", 2);
    sets(&kubectl);
    objects_of_a_set(&kubectl);
    nodes_and_namespaces(&kubectl);
    events(&kubectl);
    waiting(&kubectl);
    rights(&kubectl.in_new_namespace("rights"));
    the_cluster(&kubectl);
    configuration(&kubectl);
    drained(&kubectl.in_new_namespace("drained"));
}

/// Checks that each line is printed, ignoring white space.
#[track_caller]
fn has(printed: &str, lines: &[&str]) {
    let rows = words(printed);
    let squeezed: Vec<String> = rows.iter().map(|row| row.join(" ")).collect();
    for line in lines {
        assert!(
            squeezed
                .iter()
                .any(|line_of_output| line_of_output.starts_with(line)),
            "{line:?} is not in:\n{printed}"
        );
    }
}

/// kubectl.md 4.1, 4.2
fn sets(kubectl: &Kubectl) {
    let described = kubectl.ok(&["describe", "sts", "web"]);
    has(
        &described,
        &[
            "Name: web",
            "Namespace: default",
            "CreationTimestamp: ",
            "Selector: app=web",
            "Labels: <none>",
            "Annotations: ",
            "Replicas: 2 desired | 2 total",
            "Update Strategy: RollingUpdate",
            "Partition: 0",
            "Pods Status: 2 Running / 0 Waiting / 0 Succeeded / 0 Failed",
            "Pod Template:",
            "Image: mainstay/hello",
            "Volume Claims:",
            "StorageClass:",
            "Events:",
            "Normal SuccessfulCreate",
        ],
    );
}

/// kubectl.md 4.2, 4.3
fn objects_of_a_set(kubectl: &Kubectl) {
    let describe = |object: &str| kubectl.ok(&["describe", object]);
    has(
        &describe("pod/web-0"),
        &[
            "Controlled By: StatefulSet/web",
            "State: Running",
            "ClaimName: data-web-0",
            "QoS Class: BestEffort",
            "Normal Scheduled",
            "Normal Started",
        ],
    );
    has(
        &describe("pvc/data-web-0"),
        &[
            "Status: Bound",
            "Used By: web-0",
            "Capacity: 8Mi",
            "Events:",
        ],
    );
    let claim = kubectl.json(&["get", "pvc", "data-web-0"]);
    let volume = text(&claim, "/spec/volumeName");
    has(
        &describe(&format!("pv/{volume}")),
        &["Claim: default/data-web-0", "Reclaim Policy: Delete"],
    );
    let addresses: Vec<String> = ["web-0", "web-1"]
        .map(|pod| format!("{}:80", kubectl.pod_ip(pod)))
        .to_vec();
    let service = describe("service/web");
    has(&service, &["Selector: app=web", "Port: 80 80/TCP"]);
    assert!(
        addresses.iter().all(|address| service.contains(address)),
        "{service}"
    );
    has(
        &describe("sc/local"),
        &["IsDefaultClass: Yes", "Provisioner: "],
    );
    let revision = kubectl.ok(&["get", "controllerrevisions", "-o", "name"]);
    has(&describe(revision.trim()), &["Kind: ControllerRevision"]);
}

/// kubectl.md 4.2, 4.3
fn nodes_and_namespaces(kubectl: &Kubectl) {
    let node = kubectl.ok(&["get", "nodes", "-o", "name"]);
    let node = node.trim();
    has(
        &kubectl.ok(&["describe", node]),
        &[
            "Lease:",
            "Ready True",
            "Capacity:",
            "default web-0",
            "Allocated resources:",
            "Events:",
        ],
    );
    kubectl.ok(&["create", "quota", "few", "--hard=configmaps=7"]);
    let limits = "{apiVersion: v1, kind: LimitRange, metadata: {name: l}, spec: {limits: \
                  [{type: Container, max: {cpu: 3}}]}}";
    kubectl.apply(limits);
    has(
        &kubectl.ok(&["describe", "namespace", "default"]),
        &[
            "Status: Active",
            "Name: few",
            "configmaps 1 7",
            "Container cpu - 3",
        ],
    );
    kubectl.ok(&["delete", "limitrange/l", "quota/few"]);
}

/// kubectl.md 4.2, 4.4: one store, two API groups; events about one object; events of a watch.
fn events(kubectl: &Kubectl) {
    let of_set = kubectl.ok(&["events", "--for=statefulset/web"]);
    has(&of_set, &["LAST SEEN TYPE REASON OBJECT MESSAGE"]);
    assert!(of_set.contains("StatefulSet/web"), "{of_set}");
    assert!(!of_set.contains("Pod/web-0"), "{of_set}");
    // On a busy machine a probe may fail once.
    for event_type in ["Normal", "Warning"] {
        let types = format!("--types={event_type}");
        let printed = kubectl.ok(&["events", "--no-headers", &types]);
        let rows = words(&printed);
        assert!(
            rows.iter().all(|row| row.contains(&event_type)),
            "{printed}"
        );
        assert!(event_type == "Warning" || !rows.is_empty());
    }
    assert_eq!(
        kubectl.run(&["events", "-n", "kube-public"]).stderr,
        "No events found in kube-public namespace.\n"
    );
    let both = ["events", "events.events.k8s.io"].map(|kind| {
        let field = "reason=Scheduled";
        kubectl.ok(&["get", kind, "--field-selector", field, "-o", "name"])
    });
    assert_eq!(both[0].lines().count(), 2, "{both:?}");
    assert_eq!(both[1].lines().count(), 2, "{both:?}");
    let watch = kubectl.start(&["events", "--watch", "--for=pod/late"]);
    let image = "--image=mainstay/hello";
    kubectl.ok(&["run", "late", image]);
    kubectl.wait_pods_ready(&["pod/late"]);
    wait_for_text("Started", 60, || watch.output());
    kubectl.ok(&["delete", "pod", "late", "--now"]);
}

/// kubectl.md 6.2
fn waiting(kubectl: &Kubectl) {
    let wait = |arguments: &[&str]| kubectl.run(&[&["wait", "--timeout=300s"], arguments].concat());
    for (condition, object) in [
        ("condition=Ready", "pod/web-0"),
        ("condition=Ready=true", "pod/web-0"),
        ("jsonpath={.status.readyReplicas}=2", "statefulset.apps/web"),
        ("create", "pod/web-0"),
    ] {
        let output = wait(&["--for", condition, object]);
        assert_eq!(output.stdout, format!("{object} condition met\n"));
    }
    kubectl.ok(&["create", "configmap", "brief"]);
    let mut background = kubectl.command(&["wait", "--for=delete", "configmap/brief"]);
    let child = background.spawn().expect("start kubectl");
    kubectl.ok(&["delete", "configmap", "brief"]);
    let ended = child.wait_with_output().expect("the wait ends");
    assert!(ended.status.success(), "{ended:?}");
    let never = ["wait", "--for=condition=Other", "pod/web-0", "--timeout=1s"];
    let never = kubectl.fails(&never);
    assert!(
        never.contains("timed out waiting for the condition"),
        "{never}"
    );
}

/// kubectl.md 6.4
fn rights(kubectl: &Kubectl) {
    let whoami = kubectl.json(&["auth", "whoami"]);
    assert_eq!(whoami["status"]["userInfo"]["username"], "mainstay-admin");
    assert_eq!(kubectl.ok(&["auth", "can-i", "create", "pods"]), "yes\n");
    let jane = ["auth", "can-i", "create", "pods", "--as=jane"];
    assert_eq!(kubectl.run(&jane).stdout, "no\n");
    let listed = kubectl.ok(&["auth", "can-i", "--list"]);
    has(&listed, &["*.* [] [] [*]"]);
    let role = |verbs: &str| {
        format!(
            "{{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {{name: r, \
             namespace: rights}}, rules: [{{apiGroups: [''], resources: [pods], verbs: \
             {verbs}}}]}}"
        )
    };
    for verbs in ["[get]", "[get, list]"] {
        let reconcile = ["auth", "reconcile", "-f", "-"];
        let output = kubectl.ok_with_input(&reconcile, &role(verbs));
        assert!(
            output.starts_with("role.rbac.authorization.k8s.io/r reconciled"),
            "{output}"
        );
    }
    let verbs = "jsonpath={.rules[*].verbs}";
    let verbs = kubectl.ok(&["get", "role", "r", "-o", verbs]);
    assert!(verbs.contains("list"), "{verbs}");
}

/// kubectl.md 6.5, 6.8, 10.6
fn the_cluster(kubectl: &Kubectl) {
    let versions = kubectl.ok(&["api-versions"]);
    for version in ["apps/v1", "v1", "batch/v1", "policy/v1"] {
        assert!(versions.lines().any(|line| line == version), "{versions}");
    }
    let mut names = kubectl.ok(&["api-resources", "--sort-by=name", "-o", "name"]);
    names.retain(|letter| letter != '\n');
    assert!(names.contains("statefulsets.apps"), "{names}");
    for more in [&[][..], &["--output=plaintext-openapiv2"], &["--recursive"]] {
        let field = ["explain", "statefulset.spec.updateStrategy"];
        let explained = kubectl.ok(&[&field[..], more].concat());
        assert!(explained.contains("rollingUpdate"), "{more:?}: {explained}");
    }
    let info = kubectl.ok(&["cluster-info", "--namespace=kube-system"]);
    assert!(info.contains("control plane"), "{info}");
    assert!(info.contains("/services/kube-dns:dns/proxy"), "{info}");
    let dump = kubectl.ok(&["cluster-info", "dump", "--namespaces=default"]);
    assert!(dump.contains("\"kind\": \"NodeList\""));
    let verbose = kubectl.ok(&["get", "--raw", "/readyz?verbose"]);
    assert!(verbose.ends_with("readyz check passed\n"), "{verbose}");
    let first = verbose.lines().next().unwrap_or_default();
    let check = first.trim_start_matches("[+]").trim_end_matches(" ok");
    for path in ["/livez", "/healthz", &format!("/readyz/{check}")] {
        assert_eq!(kubectl.ok(&["get", "--raw", path]), "ok", "{path}");
    }
    let parts = kubectl.run(&["get", "componentstatuses"]);
    let deprecation = "Warning: v1 ComponentStatus is deprecated in v1.19+";
    assert!(parts.stderr.contains(deprecation), "{parts:?}");
    for name in ["controller-manager", "etcd-0", "scheduler"] {
        let mut rows = parts.stdout.lines().map(str::split_whitespace);
        let healthy = [name, "Healthy", "ok"];
        assert!(rows.any(|row| row.eq(healthy)), "{parts:?}");
    }
    let unknown = "{apiVersion: example.com/v1, kind: Unknown, metadata: {name: a}}";
    let unknown = kubectl.run_with_input(&["apply", "-f", "-"], unknown);
    let why = "no matches for kind \"Unknown\" in version \"example.com/v1\"";
    assert!(unknown.stderr.contains(why), "{unknown:?}");
}

/// kubectl.md 6.6: commands without a server work with the files that the server writes.
fn configuration(kubectl: &Kubectl) {
    let view = kubectl.ok(&["config", "view", "--minify"]);
    assert!(
        view.contains("certificate-authority-data: DATA+OMITTED"),
        "{view}"
    );
    let context = kubectl.ok(&["config", "current-context"]);
    let switched = kubectl.ok(&["config", "use-context", context.trim()]);
    assert!(switched.starts_with("Switched to context"), "{switched}");
    assert!(kubectl.ok(&["completion", "bash"]).contains("kubectl"));
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        std::fs::write(directory.path().join(name), text).expect("write a file");
    };
    write(
        "map.yaml",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: m}}",
    );
    write(
        "kustomization.yaml",
        "namePrefix: pre-\nresources: [map.yaml]\n",
    );
    let path = directory.path().to_str().expect("a path in UTF-8");
    assert!(kubectl.ok(&["kustomize", path]).contains("name: pre-m"));
    assert_eq!(
        kubectl.ok(&["apply", "-k", path]),
        "configmap/pre-m created\n"
    );
}

/// kubectl.md 6.3: cordon, taint, and a drain that waits for a budget.
fn drained(kubectl: &Kubectl) {
    let name = kubectl.node_name();
    let name = name.as_str();
    let taint = |taint: &str| kubectl.ok(&["taint", "node", name, taint]);
    assert_eq!(
        taint("a=b:PreferNoSchedule"),
        format!("node/{name} tainted\n")
    );
    assert_eq!(taint("a-"), format!("node/{name} untainted\n"));
    kubectl.apply(&web(2).to_string());
    kubectl.wait_ready("web", 2);
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "web"}, "spec": {"minAvailable": 1,
        "selector": {"matchLabels": {"app": "web"}}}});
    kubectl.apply(&budget.to_string());
    wait_for("the budget to be counted", 60, || {
        let result = kubectl.get_for_wait(&["pdb", "web"])?;
        let counted = result["status"]["disruptionsAllowed"] == 1;
        if counted { Ok(()) } else { Err(result) }
    });
    kubectl.ok(&["run", "alone", "--image=mainstay/hello"]);
    let drain = |more: &[&str]| {
        let these = [
            "drain",
            name,
            "--pod-selector=app=web",
            "--delete-emptydir-data",
        ];
        kubectl.run(&[&these[..], more].concat())
    };
    let dry = drain(&["--dry-run=server"]);
    let expected = "evicting pod drained/web-0 (server dry run)\n";
    assert!(dry.stdout.contains(expected), "{dry:?}");
    // One pod may be evicted; it cannot start again on the cordoned node, so the other pod has to stay.
    let blocked = drain(&["--timeout=3s"]);
    assert_ne!(blocked.code, 0, "{blocked:?}");
    let why = "Cannot evict pod as it would violate the pod's disruption budget";
    assert!(blocked.stderr.contains(why), "{blocked:?}");
    let nodes = kubectl.ok(&["get", "nodes", "--no-headers"]);
    assert!(nodes.contains("Ready,SchedulingDisabled"), "{nodes}");
    kubectl.ok(&["delete", "pdb", "web"]);
    let done = drain(&["--timeout=300s"]);
    assert!(
        done.stdout.contains(&format!("node/{name} drained")),
        "{done:?}"
    );
    let unmanaged = kubectl.fails(&["drain", name, "--pod-selector=run=alone"]);
    assert!(unmanaged.contains("use --force to override"), "{unmanaged}");
    let free = kubectl.ok(&["uncordon", name]);
    assert_eq!(free, format!("node/{name} uncordoned\n"));
    kubectl.wait_ready("web", 2);
}
