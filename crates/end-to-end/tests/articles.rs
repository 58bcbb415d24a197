//! Two articles word by word, with their manifests in `examples/nginx`: a StatefulSet's names, and the data on its
//! claims. The commands are as printed; the output is in the form of the present client.

use end_to_end::applications::{nginx, old_busybox};
use end_to_end::{
    Instance, Pasted, Registry, Shell, example, text, wait_for, wait_for_text, with_registry_of,
    words,
};

/// A server for an article, with its nginx and its version of busybox.
#[track_caller]
fn with_busybox(version: &str) -> (Registry, Instance) {
    with_registry_of(&[
        ("library/nginx", "1.9.1", &nginx("1.9.1")),
        ("library/busybox", version, &old_busybox()),
    ])
}

/// The fields of a row of a table.
fn fields(table: &str, row: usize) -> Vec<&str> {
    let mut rows = words(table).into_iter();
    let fields = rows.nth(row);
    fields.unwrap_or_else(|| panic!("no row {row} in:\n{table}"))
}

/// The states of a pod until it runs, as a watch prints them.
fn births(pods: &[&str]) -> Vec<String> {
    let stages = [
        "0/1 Pending",
        "0/1 Pending",
        "0/1 ContainerCreating",
        "1/1 Running",
    ];
    pods.iter()
        .flat_map(|pod| stages.map(|stage| format!("{pod} {stage}")))
        .collect()
}

/// seeds.md C10: the output of an old `nslookup` for a pod's short name.
#[track_caller]
fn check_lookup(printed: &str, instance: &Instance, pod: &str) {
    let kubectl = instance.kubectl();
    let service = ["get", "svc", "kube-dns", "-n", "kube-system"];
    let output = ["-o", "jsonpath={.spec.clusterIP}"];
    let server = kubectl.run(&[&service[..], &output].concat()).stdout;
    let range = kubectl.json(&["get", "svc", "kubernetes", "-n", "default"]);
    let first = text(&range, "/spec/clusterIP").to_owned();
    let tenth = first.strip_suffix(".1").map(|range| format!("{range}.10"));
    let server = tenth.filter(|tenth| server.is_empty() || *tenth == server);
    let server = server.expect("the DNS server has the tenth address of the range");
    let address = kubectl.pod_ip(pod);
    let expected = format!(
        "Server:    {server}\n\
         Address 1: {server} kube-dns.kube-system.svc.cluster.local\n\n\
         Name:      {pod}.nginx\n\
         Address 1: {address} {pod}.nginx.default.svc.cluster.local\n"
    );
    assert!(
        printed.contains(&expected),
        "{expected}\nis not in\n{printed}"
    );
}

/// The first article; seeds.md C1, C3, C4, C5, C6, C7, C9, C10, C11, M1, M2.
#[test]
fn names_stay() {
    let (_registry, instance) = with_busybox("1.28.4");
    let kubectl = instance.kubectl();
    let shell = Shell::new(&instance, example("nginx"));

    assert_eq!(
        shell.ok("kubectl create -f svc.yaml"),
        "service/nginx created\n"
    );
    let service = shell.ok("kubectl get service nginx");
    let header = [
        "NAME",
        "TYPE",
        "CLUSTER-IP",
        "EXTERNAL-IP",
        "PORT(S)",
        "AGE",
    ];
    assert_eq!(fields(&service, 0), header);
    let row = ["nginx", "ClusterIP", "None", "<none>", "80/TCP"];
    assert_eq!(&fields(&service, 1)[..5], row);

    let watch = shell.watch("kubectl get pods -w -l app=nginx");
    assert_eq!(
        shell.ok("kubectl create -f statefulset.yaml"),
        "statefulset.apps/web created\n"
    );
    kubectl.wait_ready("web", 2);
    let set = shell.ok("kubectl get statefulset web");
    assert_eq!(fields(&set, 0), ["NAME", "READY", "AGE"]);
    assert_eq!(&fields(&set, 1)[..2], ["web", "2/2"]);
    let births = births(&["web-0", "web-1"]);
    watch.wait_last_row("web-1 1/1 Running");
    let output = watch.output();
    let header = ["NAME", "READY", "STATUS", "RESTARTS", "AGE"];
    assert_eq!(fields(&output, 0), header);
    watch.check_row_order(&births);
    let described = shell.ok("kubectl describe statefulset web");
    let events = [
        "create Pod web-0 in StatefulSet web successful",
        "create Pod web-1 in StatefulSet web successful",
    ];
    for event in events {
        assert!(described.contains(event), "{described}");
    }
    for pod in ["web-0", "web-1"] {
        let hostname = format!("kubectl exec {pod} -- sh -c 'hostname'");
        assert_eq!(shell.ok(&hostname), format!("{pod}\n"));
    }
    names_lead_to_pods(&instance, &shell);

    let former_uids = [kubectl.pod_uid("web-0"), kubectl.pod_uid("web-1")];
    let watch = shell.start("kubectl get pods -w -l app=nginx");
    wait_for("the watch to begin", 60, || {
        let rows = watch.rows(3);
        if rows.len() == 3 { Ok(()) } else { Err(rows) }
    });
    assert_eq!(
        shell.ok("kubectl delete pod -l app=nginx"),
        "pod \"web-0\" deleted from default namespace\n\
         pod \"web-1\" deleted from default namespace\n"
    );
    kubectl.wait_ready("web", 2);
    assert!(!former_uids.contains(&kubectl.pod_uid("web-0")));
    watch.wait_last_row("web-1 1/1 Running");
    let rows = watch.rows(3);
    watch.check_row_order(&births);
    for pod in ["web-0", "web-1"] {
        let terminating = format!("{pod} 1/1 Terminating");
        assert!(rows.contains(&terminating), "{rows:#?}");
    }
    names_lead_to_pods(&instance, &shell);
}

/// seeds.md C9, C10: a busybox in a terminal, which is deleted when it exits.
fn names_lead_to_pods(instance: &Instance, shell: &Shell) {
    let run = "kubectl run -i --tty --image busybox:1.28.4 dns-test --restart=Never --rm /bin/sh";
    let typed = "nslookup web-0.nginx\nnslookup web-1.nginx\nexit\n";
    let printed = shell.on_terminal(run, typed);
    assert_eq!(printed.code, 0, "{printed:#?}");
    for pod in ["web-0", "web-1"] {
        check_lookup(&printed.stdout, instance, pod);
    }
    let deleted = "pod \"dns-test\" deleted from default namespace";
    assert!(printed.stdout.contains(deleted), "{printed:#?}");
    let missing = shell.fails("kubectl get pod dns-test");
    assert!(missing.contains("\"dns-test\" not found"), "{missing}");
}

/// The first article's second half: a claim, a pod that uses it, and a volume of a network file
/// system; seeds.md M5, M6, M7, C1.
#[test]
fn a_claim_and_its_pod() {
    let nginx = nginx("1.9.1");
    let (_registry, instance) = with_registry_of(&[("library/nginx", "latest", &nginx)]);
    let shell = Shell::new(&instance, example("nginx"));
    let claim = shell.ok("kubectl create -f pv-claim.yaml");
    assert_eq!(claim, "persistentvolumeclaim/pv-claim created\n");
    assert_eq!(
        shell.ok("kubectl create -f pv-pod.yaml"),
        "pod/pv-pod created\n"
    );
    shell.ok("kubectl wait --for=condition=Ready pod/pv-pod --timeout=300s");
    let claims = shell.ok("kubectl get pvc pv-claim");
    assert_eq!(fields(&claims, 1)[1], "Bound");
    let write = "echo kept > /usr/share/nginx/html/index.html";
    shell.ok(&format!("kubectl exec pv-pod -- sh -c '{write}'"));
    shell.ok("kubectl delete -f pv-pod.yaml && kubectl create -f pv-pod.yaml");
    shell.ok("kubectl wait --for=condition=Ready pod/pv-pod --timeout=300s");
    let page = shell.ok("kubectl exec pv-pod -- curl -s localhost");
    assert_eq!(page, "kept\n");

    // Two of its fields do not exist, and its access modes are missing.
    let refused = shell.fails("kubectl create -f pv-volume.yaml");
    for field in ["spec.rbd.imageformat", "spec.rbd.imagefeatures"] {
        let unknown = format!("unknown field \"{field}\"");
        assert!(refused.contains(&unknown), "{refused}");
    }
    let refused = shell.fails("kubectl create --validate=ignore -f pv-volume.yaml");
    let required = "spec.accessModes: Required value";
    assert!(refused.contains(required), "{refused}");
}

/// The second article; seeds.md C1, C5, C8, C9, C10, C11, C20, C21, C22, C23, C27, M3.
#[test]
fn claims_keep_what_pods_wrote() {
    let (_registry, instance) = with_busybox("1.28.3");
    let kubectl = instance.kubectl();
    let shell = Shell::new(&instance, example("nginx/with-claims"));

    assert_eq!(
        shell.ok("kubectl create -f svc.yaml"),
        "service/nginx created\nstatefulset.apps/web created\n"
    );
    kubectl.wait_ready("web", 2);
    let run = "kubectl run -i --tty --image busybox:1.28.3 dns-test --restart=Never --rm /bin/sh";
    let printed = shell.on_terminal(run, "nslookup web-0.nginx\nexit\n");
    check_lookup(&printed.stdout, &instance, "web-0");

    let claims = shell.ok("kubectl get pvc");
    let header = "NAME STATUS VOLUME CAPACITY ACCESS MODES STORAGECLASS";
    let printed = fields(&claims, 0).join(" ");
    assert!(printed.starts_with(header), "{claims}");
    for (row, name) in [(1, "www-web-0"), (2, "www-web-1")] {
        let row = fields(&claims, row);
        assert_eq!(row[..2], [name, "Bound"], "{claims}");
        assert_eq!(row[3..5], ["1Gi", "RWO"], "{claims}");
    }

    let write = "for i in 0 1; do kubectl exec web-$i -- sh -c \
        'echo hello $(hostname) > /usr/share/nginx/html/index.html'; done";
    assert_eq!(shell.ok(write), "");
    let read = "for i in 0 1; do kubectl exec -it web-$i -- curl -s localhost; done";
    assert_eq!(shell.ok(read), "hello web-0\nhello web-1\n");
    let typed = "for i in 0 1; do kubectl exec -it web-$i -- curl localhost; done";
    let printed = shell.on_terminal(typed, "");
    assert!(
        printed.stdout.ends_with("hello web-0\nhello web-1\n"),
        "{printed:#?}"
    );
    // The image has no curl, so the page is read from the host, with the address in the output of describe.
    let read_from_host = || {
        let described = shell.ok("kubectl describe pod web-0");
        let line = described.lines().find(|line| line.starts_with("IP:"));
        let address = line.expect("a line IP:").trim_start_matches("IP:").trim();
        shell.ok(&format!("curl -s {address}"))
    };
    assert_eq!(read_from_host(), "hello web-0\n");
    shell.ok("kubectl delete pod -l app=nginx");
    kubectl.wait_ready("web", 2);
    assert_eq!(read_from_host(), "hello web-0\n");
    assert_eq!(shell.ok(read), "hello web-0\nhello web-1\n");

    a_labelled_node_and_a_directory(&instance, &shell);
}

/// seeds.md C22, C23, C27: a namespace, and a pod that needs the directory of a labelled node.
fn a_labelled_node_and_a_directory(instance: &Instance, shell: &Shell) {
    let namespace = shell.ok("kubectl create namespace data");
    assert_eq!(namespace, "namespace/data created\n");
    let kubectl = instance.kubectl();
    let node = kubectl.node_name();
    let directory = instance.data().with_file_name("mnt/mysql");
    let directory = directory.display();
    shell.ok(&format!("mkdir -p {directory}"));
    let pod = format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "mysql"}}, "spec": {{
            "nodeSelector": {{"mysql": "master"}}, "terminationGracePeriodSeconds": 1,
            "containers": [{{"name": "c", "image": "busybox:1.28.3",
                "command": ["sh", "-c", "echo of $HOSTNAME > /data/file; sleep 1000"],
                "volumeMounts": [{{"name": "data", "mountPath": "/data"}}]}}],
            "volumes": [{{"name": "data", "hostPath": {{"path": "{directory}"}}}}]}}}}"#
    );
    kubectl.ok_with_input(&["create", "-f", "-"], &pod);
    let selector = "didn't match Pod's node affinity/selector";
    wait_for_text(selector, 60, || shell.ok("kubectl describe pod mysql"));
    let labelled = shell.ok(&format!("kubectl label nodes {node} mysql=master"));
    assert_eq!(labelled, format!("node/{node} labeled\n"));
    wait_for("the file on the node", 60, || {
        let read = shell.run(&format!("cat {directory}/file"));
        if read.stdout == "of mysql\n" {
            Ok(())
        } else {
            Err(read)
        }
    });
    shell.ok("kubectl delete pod mysql");
}

/// findings U7: the page of the manifests is pasted while the README's example runs, which uses equal names.
#[test]
fn the_page_holds() {
    let (_registry, instance) = with_busybox("1.28.4");
    let kubectl = instance.kubectl();
    let tour = example("web.yaml");
    let tour = tour.to_str().expect("a path in UTF-8");
    kubectl.ok(&["apply", "--server-side", "-f", tour]);
    kubectl.wait_ready("web", 3);
    let pasted = Pasted::for_instance(&instance);
    let output = pasted.page("examples/nginx/README.md");
    for text in [
        "web-0\nweb-1\n",
        "Name:      web-0.nginx.default.svc.cluster.local",
        "hello web-0\n",
        "statefulset.apps/web created",
    ] {
        assert!(output.stdout.contains(text), "{text}: {output:#?}");
    }
    let claims = kubectl.ok(&["get", "pvc", "-o", "name"]);
    assert!(!claims.contains("www-web"), "{claims}");
    assert!(claims.contains("data-web-0"), "{claims}");
}
