//! Common options of all commands, and `get` in all its forms, by the standard client (kubectl.md 0 and 1).

use end_to_end::background::BackgroundProgram;
use end_to_end::stateful_set::web;
use end_to_end::{Instance, Kubectl, text, wait_for, wait_for_text, words};

#[test]
fn reading_with_the_stock_client() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    kubectl.apply(&web(2).to_string());
    kubectl.wait_ready("web", 2);
    errors_are_reported(&kubectl);
    unauthorised_clients_are_refused(&kubectl);
    discovery_and_documents(&kubectl);
    pages_and_selectors(&kubectl);
    managers_are_recorded(&kubectl.in_new_namespace("managers"));
    tables(&kubectl);
    forms_of_the_client(&kubectl);
    the_category_all(&kubectl);
    empty_lists(&kubectl);
    events_of_a_watch(&kubectl.in_new_namespace("watched"));
}

/// kubectl.md 0.5, 0.6, 0.8: the client's output for a `Status` and for warnings.
fn errors_are_reported(kubectl: &Kubectl) {
    assert_eq!(
        kubectl.fails(&["get", "pod", "none"]),
        "Error from server (NotFound): pods \"none\" not found\n"
    );
    let mut bad = web(1);
    bad["metadata"]["name"] = "bad".into();
    bad["spec"]["template"]["metadata"]["labels"]["app"] = "other".into();
    let refused = kubectl.run_with_input(&["create", "-f", "-"], &bad.to_string());
    let start = "The StatefulSet \"bad\" is invalid: spec.template.metadata.labels: Invalid value:";
    assert!(refused.stderr.starts_with(start), "{refused:?}");
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {foo: 1, containers: \
               [{name: a, image: a}]}}";
    let strict = kubectl.run_with_input(&["create", "-f", "-"], pod);
    let why = "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown \
               field \"spec.foo\"";
    assert!(strict.stderr.contains(why), "{strict:?}");
    let warned = ["create", "--validate=warn", "--dry-run=server", "-f", "-"];
    let warned = kubectl.run_with_input(&warned, pod);
    let warning = "Warning: unknown field \"spec.foo\"\n";
    assert!(
        warned.code == 0 && warned.stderr.contains(warning),
        "{warned:?}"
    );
}

/// kubectl.md 0.1: clients without credentials, with wrong credentials, and without rights.
fn unauthorised_clients_are_refused(kubectl: &Kubectl) {
    let nobody = kubectl.with_token("no.such.token");
    let refused = nobody.fails(&["get", "pods"]);
    assert!(
        refused.contains("You must be logged in to the server"),
        "{refused}"
    );
    let jane = kubectl.fails(&["get", "pods", "--as=jane"]);
    let why = "Error from server (Forbidden): pods is forbidden: User \"jane\" cannot list \
               resource \"pods\" in API group \"\" in the namespace \"default\"\n";
    assert_eq!(jane, why);
    kubectl.ok(&["create", "serviceaccount", "bot"]);
    let role = "--clusterrole=view";
    let account = "--serviceaccount=default:bot";
    kubectl.ok(&["create", "rolebinding", "bot", role, account]);
    let token = kubectl.ok(&["create", "token", "bot", "--duration=10m"]);
    let bot = kubectl.with_token(token.trim());
    wait_for("the binding to hold", 60, || {
        let listed = bot.run(&["get", "pods", "-o", "name"]);
        if listed.stdout == "pod/web-0\npod/web-1\n" {
            Ok(())
        } else {
            Err(listed)
        }
    });
    assert!(bot.fails(&["get", "secrets"]).contains("Forbidden"));
}

/// kubectl.md 0.2, 0.3, 0.4, 0.9, 0.10, 0.17: the client's discovery of the server, and its own work with the result.
fn discovery_and_documents(kubectl: &Kubectl) {
    let listed = kubectl.ok(&["api-resources", "--verbs=list", "-o", "wide"]);
    let shorts = "po svc sts pvc pv sc ns no cm ev sa deploy rs ds ep cj hpa pdb limits quota";
    for short in shorts.split(' ') {
        let groups = words(&listed);
        let mut names = groups.iter().filter_map(|row| row.get(1));
        assert!(
            names.any(|names| names.split(',').any(|name| name == short)),
            "{short} is no short name in:\n{listed}"
        );
    }
    let legacy = kubectl.ok(&["get", "--raw", "/api/v1"]);
    let legacy: serde_json::Value = serde_json::from_str(&legacy).expect("JSON");
    let resources = legacy["resources"].as_array().expect("a list");
    let eviction = resources.iter().find(|r| r["name"] == "pods/eviction");
    let eviction = eviction.expect("drain looks for it");
    let what = ["group", "version", "kind"].map(|field| text(eviction, &format!("/{field}")));
    assert_eq!(what, ["policy", "v1", "Eviction"]);
    let version = kubectl.json(&["version"]);
    assert_eq!(version["serverVersion"]["minor"], "36");
    for (path, part) in [
        ("/openapi/v3", "\"apis/apps/v1\":{\"serverRelativeURL\":"),
        ("/openapi/v2", "x-kubernetes-patch-merge-key"),
    ] {
        let document = kubectl.ok(&["get", "--raw", path]);
        assert!(document.contains(part), "{path} is without {part}");
    }
    let flow = kubectl.ok(&["get", "sts", "web", "-o", "kyaml"]);
    assert!(
        flow.starts_with("---\n{\n  apiVersion: \"apps/v1\","),
        "{flow}"
    );
}

/// kubectl.md 0.12, 0.14, 0.15
fn pages_and_selectors(kubectl: &Kubectl) {
    let all = kubectl.ok(&["get", "clusterroles", "-o", "name"]);
    let paged = kubectl.ok(&["get", "clusterroles", "-o", "name", "--chunk-size=7"]);
    assert_eq!(paged, all);
    let names = |arguments: &[&str]| {
        let listed = kubectl.ok(&[&["get", "pods", "-o", "name"], arguments].concat());
        listed.trim().replace('\n', " ")
    };
    assert_eq!(
        names(&["-l", "app in (web,other),!absent"]),
        "pod/web-0 pod/web-1"
    );
    assert_eq!(names(&["-l", "app notin (web)"]), "");
    let field = "--field-selector=metadata.name!=web-0,status.phase=Running";
    assert_eq!(names(&[field]), "pod/web-1");
    let unknown = kubectl.fails(&["get", "pods", "--field-selector=spec.other=1"]);
    assert!(
        unknown.contains("field label not supported: spec.other"),
        "{unknown}"
    );
}

/// kubectl.md 0.7: each command writes with its own manager name.
fn managers_are_recorded(kubectl: &Kubectl) {
    kubectl.ok(&["create", "configmap", "c", "--from-literal=a=b"]);
    kubectl.ok(&["label", "configmap", "c", "a=b"]);
    kubectl.ok(&["annotate", "configmap", "c", "a=b"]);
    kubectl.ok(&["patch", "configmap", "c", "-p", r#"{"data":{"c":"d"}}"#]);
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: s}, data: {a: b}}";
    kubectl.ok_with_input(&["apply", "--server-side", "-f", "-"], map);
    kubectl.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: d}, data: {a: b}}");
    kubectl.ok(&[
        "create",
        "deployment",
        "w",
        "--image=mainstay/hello",
        "--replicas=0",
    ]);
    kubectl.ok(&["scale", "deployment", "w", "--replicas=0"]);
    kubectl.ok(&["set", "env", "deployment/w", "A=b"]);
    kubectl.ok(&["rollout", "restart", "deployment/w"]);
    kubectl.ok(&["expose", "deployment", "w", "--port=80"]);
    let managers = |object: &str| -> Vec<String> {
        let object_json = kubectl.json(&["get", object, "--show-managed-fields"]);
        let list = object_json["metadata"]["managedFields"].as_array().cloned();
        let entries = list.unwrap_or_default();
        let names = entries
            .iter()
            .map(|entry| text(entry, "/manager").to_owned());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("kubectl")).collect();
        // The entries are listed by time, in whole seconds, and by name within one second.
        names.sort();
        names
    };
    let created = [
        "kubectl-annotate",
        "kubectl-create",
        "kubectl-label",
        "kubectl-patch",
    ];
    assert_eq!(managers("configmap/c"), created);
    assert_eq!(managers("configmap/s"), ["kubectl"]);
    assert_eq!(managers("configmap/d"), ["kubectl-client-side-apply"]);
    let of_deployment = managers("deployment/w");
    for name in ["kubectl-create", "kubectl-set", "kubectl-rollout"] {
        assert!(
            of_deployment.iter().any(|manager| manager == name),
            "{of_deployment:?}"
        );
    }
    assert_eq!(managers("service/w"), ["kubectl-expose"]);
}

/// kubectl.md 1.1, 1.2, 1.8, 1.9, 1.10, 9.2, 9.7
fn tables(kubectl: &Kubectl) {
    let heads = |arguments: &[&str]| {
        let printed = kubectl.ok(&[&["get"], arguments].concat());
        words(&printed)[0].join(" ")
    };
    for (arguments, heading) in [
        (&["sts"][..], "NAME READY AGE"),
        (&["sts", "-o", "wide"], "NAME READY AGE CONTAINERS IMAGES"),
        (&["pods"], "NAME READY STATUS RESTARTS AGE"),
        (
            &["pods", "-o", "wide"],
            "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES",
        ),
        (
            &["pods", "-A", "-L", "app", "--show-labels"],
            "NAMESPACE NAME READY STATUS RESTARTS AGE APP LABELS",
        ),
        (&["svc"], "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE"),
        (&["nodes"], "NAME STATUS ROLES AGE VERSION"),
        (
            &["sc"],
            "NAME PROVISIONER RECLAIMPOLICY VOLUMEBINDINGMODE ALLOWVOLUMEEXPANSION AGE",
        ),
        (&["controllerrevisions"], "NAME CONTROLLER REVISION AGE"),
        (&["events"], "LAST SEEN TYPE REASON OBJECT MESSAGE"),
        (&["ns"], "NAME STATUS AGE"),
        (&["cm"], "NAME DATA AGE"),
        (&["endpointslices"], "NAME ADDRESSTYPE PORTS ENDPOINTS AGE"),
        (&["sa"], "NAME AGE"),
        (&["leases", "-n", "kube-node-lease"], "NAME HOLDER AGE"),
        (
            &["sts/web", "--subresource=scale"],
            "NAME DESIRED AVAILABLE AGE",
        ),
    ] {
        let result = heads(arguments);
        // The client has no column for fields that it does not know, such as the secrets of an account.
        let result = result.replace("NAME SECRETS AGE", "NAME AGE");
        assert_eq!(result, heading, "{arguments:?}");
    }
    let sorted = kubectl.ok(&["get", "pods", "--sort-by={.metadata.name}", "--no-headers"]);
    let rows = words(&sorted);
    let cells: Vec<_> = rows.iter().map(|row| row[..3].join(" ")).collect();
    assert_eq!(cells, ["web-0 1/1 Running", "web-1 1/1 Running"]);
    let class = kubectl.ok(&["get", "sc", "--no-headers"]);
    assert!(class.starts_with("local (default) "), "{class}");
    let age = rows[0][4];
    assert!(age.ends_with('s') || age.ends_with('m'), "{age}");
}

/// kubectl.md 1.5
fn forms_of_the_client(kubectl: &Kubectl) {
    let both = kubectl.ok(&["get", "pods", "-o", "yaml"]);
    assert!(both.starts_with("apiVersion: v1\nitems:\n"), "{both}");
    assert!(both.contains("\nkind: List\n"), "{both}");
    let print = |form: &str| kubectl.ok(&["get", "sts", "web", "-o", form]);
    assert_eq!(print("name"), "statefulset.apps/web\n");
    assert_eq!(print("jsonpath={.spec.replicas}"), "2");
    assert_eq!(print("go-template={{.spec.serviceName}}"), "web");
    let columns = print("custom-columns=N:.metadata.name,R:.spec.replicas");
    assert_eq!(words(&columns), [["N", "R"], ["web", "2"]]);
    assert!(!print("yaml").contains("managedFields"));
    for part in ["status", "scale"] {
        let sub_resource = kubectl.json(&["get", "sts", "web", &format!("--subresource={part}")]);
        assert_eq!(sub_resource["status"]["replicas"], 2, "{sub_resource}");
    }
    let scale = "/apis/apps/v1/namespaces/default/statefulsets/web/scale";
    let scale = kubectl.ok(&["get", "--raw", scale]);
    assert!(scale.contains("\"selector\":\"app=web\""), "{scale}");
    assert_eq!(
        kubectl.ok(&["get", "pod", "web-0", "--subresource=resize", "-o", "name"]),
        "pod/web-0\n"
    );
}

/// kubectl.md 1.6
fn the_category_all(kubectl: &Kubectl) {
    let all = kubectl.ok(&["get", "all", "-o", "name"]);
    for name in ["pod/web-0", "service/kubernetes", "statefulset.apps/web"] {
        assert!(all.contains(name), "{name} is not in:\n{all}");
    }
    for kind in ["configmap", "secret", "serviceaccount"] {
        assert!(!all.contains(kind), "{kind} is in:\n{all}");
    }
}

/// kubectl.md 1.7
fn empty_lists(kubectl: &Kubectl) {
    let message = |arguments: &[&str]| kubectl.run(arguments).stderr;
    assert_eq!(
        message(&["get", "jobs"]),
        "No resources found in default namespace.\n"
    );
    assert_eq!(message(&["get", "jobs", "-A"]), "No resources found\n");
}

/// kubectl.md 0.13, 1.3, 1.4, 9.1: rows for each event; one heading; rows before the watch if they are requested.
fn events_of_a_watch(kubectl: &Kubectl) {
    kubectl.ok(&["create", "configmap", "before"]);
    let watch = |more: &[&str]| {
        let events = ["get", "configmap", "-w", "--output-watch-events"];
        kubectl.watch(&[&events, more].concat())
    };
    let with_list = watch(&[]);
    let only_news = watch(&["--watch-only"]);
    kubectl.ok(&["create", "configmap", "during"]);
    kubectl.ok(&[
        "patch",
        "configmap",
        "during",
        "-p",
        r#"{"data":{"a":"b"}}"#,
    ]);
    kubectl.ok(&["delete", "configmap", "during"]);
    let rows = |watch: BackgroundProgram, name: &str| -> Vec<String> {
        let printed = wait_for_text("DELETED", 60, || watch.output());
        let rows = words(&printed);
        assert_eq!(rows[0], ["EVENT", "NAME", "DATA", "AGE"], "{printed}");
        let of_it = rows.iter().filter(|row| row[1] == name);
        of_it.map(|row| format!("{} {}", row[0], row[2])).collect()
    };
    let news = rows(only_news, "during");
    assert_eq!(news, ["ADDED 0", "MODIFIED 1", "DELETED 1"]);
    assert_eq!(rows(with_list, "before"), ["ADDED 0"]);
}
