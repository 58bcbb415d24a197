//! Redis: `examples/redis`. Replicas and Sentinels know each other by name; an absent primary is replaced, returns as a
//! replica, and no write is lost.

use end_to_end::applications::redis;
use end_to_end::{Kubectl, Page, Shell, example, wait_for, with_registry_of};

/// Seconds of an idle machine. A Sentinel does nothing for 30 s each time it was blocked for 2 s (TILT mode), which
/// repeats on a busy machine.
const PATIENCE: u64 = 120;

/// The output of redis-cli in a pod, or its error.
fn redis_cli(kubectl: &Kubectl, pod: &str, command: &str) -> Result<String, String> {
    let mut words = vec!["exec", pod, "--", "redis-cli", "--raw"];
    words.extend(command.split(' '));
    let response = kubectl.run(&words).success();
    let response = response.map(|printed| printed.replace('\r', "").trim_end().to_owned());
    response.map_err(|output| output.stderr)
}

/// The output if it contains this text, or the error.
fn check_output(kubectl: &Kubectl, pod: &str, command: &str, expected: &str) -> Result<(), String> {
    let output = redis_cli(kubectl, pod, command)?;
    match output.contains(expected) {
        true => Ok(()),
        false => Err(format!("{command} at {pod}: {output}")),
    }
}

#[track_caller]
fn wait_for_output(kubectl: &Kubectl, pod: &str, command: &str, expected: &str) {
    wait_for(&format!("{command} at {pod}: {expected}"), PATIENCE, || {
        check_output(kubectl, pod, command, expected)
    });
}

const PODS: [&str; 3] = ["redis-0", "redis-1", "redis-2"];
const WHO: &str = "-p 26379 sentinel get-master-addr-by-name main";

/// findings U7: the page, as pasted.
#[test]
fn sentinels_replace_a_primary_that_stays_away() {
    let (_registry, instance) = with_registry_of(&[("library/redis", "7", &redis())]);
    let kubectl = instance.kubectl();
    let page = Page::part(
        &instance,
        "examples/redis/README.md",
        "",
        Some("## By hand"),
    );
    let output = page.paste("", Some("## Failover")).stdout;
    assert!(output.contains("OK\n2\n"), "two replicas have it: {output}");
    assert!(output.lines().any(|line| line == "green"), "{output}");
    let primary_by_name = output.lines().rev().nth(1).unwrap_or_default();
    assert!(primary_by_name.starts_with("redis-0.redis-svc"), "{output}");
    // Replicas know their primary, and Sentinels know the replicas and each other.
    for replica in ["redis-1", "redis-2"] {
        let primary = "master_host:redis-0.redis-svc";
        wait_for_output(&kubectl, replica, "info replication", primary);
        let link = "master_link_status:up";
        wait_for_output(&kubectl, replica, "info replication", link);
    }
    for sentinel in ["sentinel-0", "sentinel-1", "sentinel-2"] {
        let counts = "slaves=2,sentinels=3";
        wait_for_output(&kubectl, sentinel, "-p 26379 info sentinel", counts);
        wait_for_output(&kubectl, sentinel, WHO, "redis-0.redis-svc");
    }

    // The primary's pod cannot start again, because the node is cordoned. The next primary accepts a write.
    let back = "Another server is the primary now.";
    page.paste("## Failover", Some(back));
    write_to_the_next(&kubectl);
    let output = page.paste(back, None).stdout;
    assert!(output.contains("role:slave"), "{output}");
    kubectl.wait_ready("redis", 3);
    let written = [("colour", "green"), ("shape", "round")];
    wait_for("everything at all servers", PATIENCE, || {
        has_everywhere(&kubectl, &written)
    });

    // A pod that returns has its data. On a slow machine, it follows another primary, too.
    let primary = wait_for("one primary", PATIENCE, || primary(&kubectl));
    kubectl.ok(&["delete", "pod", &primary]);
    kubectl.wait_ready("redis", 3);
    wait_for("everything at all servers", PATIENCE, || {
        has_everywhere(&kubectl, &written)
    });
    page.finish();
}

/// The current primary, as all Sentinels and the primary itself report.
fn primary(kubectl: &Kubectl) -> Result<String, String> {
    let replies =
        ["sentinel-0", "sentinel-1", "sentinel-2"].map(|pod| redis_cli(kubectl, pod, WHO));
    let same = replies.iter().all(|reply| *reply == replies[0]);
    let name = replies[0].clone().unwrap_or_default();
    let primary = match name.split_once('.') {
        Some((pod, rest)) if same && rest.starts_with("redis-svc") => pod,
        _ => return Err(format!("{replies:?}")),
    };
    check_output(kubectl, primary, "info replication", "role:master")?;
    Ok(primary.to_owned())
}

/// Writes to the primary that is not `redis-0` any more.
#[track_caller]
fn write_to_the_next(kubectl: &Kubectl) {
    // One connection, because WAIT counts the writes of its connection.
    let write = "printf 'set shape round\\nwait 1 5000\\n' | redis-cli";
    wait_for("a write at another primary", PATIENCE, || {
        let new = primary(kubectl)?;
        if new == "redis-0" {
            return Err(new);
        }
        check_output(kubectl, &new, "get colour", "green")?;
        let written = kubectl.run(&["exec", &new, "--", "sh", "-c", write]);
        match &*written.stdout {
            "OK\n1\n" => Ok(()),
            _ => Err(format!("{new}: {written:?}")),
        }
    });
}

/// All servers have these values, and follow one primary.
fn has_everywhere(kubectl: &Kubectl, values: &[(&str, &str)]) -> Result<(), String> {
    let primary = primary(kubectl)?;
    for pod in PODS {
        if pod != primary {
            let named = format!("master_host:{primary}.redis-svc");
            check_output(kubectl, pod, "info replication", &named)?;
            check_output(kubectl, pod, "info replication", "master_link_status:up")?;
        }
        for (key, value) in values {
            check_output(kubectl, pod, &format!("get {key}"), value)?;
        }
    }
    Ok(())
}

const FAILOVER_PODS: [&str; 3] = ["cache-0", "cache-1", "cache-2"];

/// Sentinels that started after a loss do not know a replica of a replica: the replica corrects itself.
#[test]
fn a_replica_that_no_sentinel_knows_finds_the_primary() {
    let (_registry, instance) = with_registry_of(&[("library/redis", "7", &redis())]);
    let kubectl = instance.kubectl();
    let sentinel = |pod: &str, command: &str| {
        let mut words = vec![
            "exec",
            pod,
            "-c",
            "sentinel",
            "--",
            "redis-cli",
            "-p",
            "26379",
        ];
        words.extend(command.split(' '));
        kubectl
            .run(&words)
            .success()
            .map_err(|output| output.stderr)
    };
    let primary = || {
        let names = FAILOVER_PODS.map(|pod| sentinel(pod, "sentinel get-master-addr-by-name main"));
        let name = names[0].clone().unwrap_or_default();
        match name.split_once('.') {
            Some((pod, _)) if names.iter().all(|other| *other == names[0]) => Ok(pod.to_owned()),
            _ => Err(format!("{names:?}")),
        }
    };
    let is_whole = || {
        let primary = primary()?;
        let printed = redis_cli(&kubectl, &primary, "info replication")?;
        match printed.matches("state=online").count() {
            2 => Ok(primary),
            _ => Err(printed),
        }
    };
    let manifest = example("redis/failover.yaml").display().to_string();
    kubectl.ok(&["apply", "-f", &manifest]);
    kubectl.wait_ready("cache", 3);
    let first = wait_for("all servers to follow the primary", PATIENCE, is_whole);
    let mut replicas = FAILOVER_PODS.iter().filter(|pod| **pod != first);
    let (one, other) = (replicas.next().unwrap(), replicas.next().unwrap());
    let chained = format!("replicaof {one}.cache 6379");
    assert_eq!(redis_cli(&kubectl, other, &chained), Ok("OK".into()));
    wait_for_output(&kubectl, &first, "info replication", "connected_slaves:1");
    for pod in FAILOVER_PODS {
        sentinel(pod, "sentinel reset main").expect("reset a Sentinel");
    }
    wait_for("all servers to follow the primary", PATIENCE, is_whole);
    let log = kubectl.ok(&["logs", other, "-c", "redis"]);
    eprintln!("{log}");
}

/// The article on Redis: two sets, replication by hand, names from pod to pod; seeds.md C25, C26; findings U7: the page's
/// second part, as pasted.
#[test]
fn replication_by_hand() {
    let image = redis();
    let (_registry, instance) = with_registry_of(&[("library/redis", "5-alpine", &image)]);
    let kubectl = instance.kubectl();
    let shell = Shell::new(&instance, example("redis/by-hand"));
    let page = Page::part(&instance, "examples/redis/README.md", "## By hand", None);
    for (file, created) in [
        ("redis-svc.yml", "service/redis-svc"),
        ("redis-sts.yml", "statefulset.apps/redis-sts"),
        ("redis-pv-sts.yml", "statefulset.apps/redis-pv-sts"),
    ] {
        let applied = shell.ok(&format!("kubectl apply -f {file}"));
        assert_eq!(applied, format!("{created} created\n"));
    }
    let output = page.paste("", None).stdout;
    let again = page.ok("kubectl apply -f examples/redis/by-hand");
    assert_eq!(again.lines().count(), 3, "they are there already: {again}");
    page.finish();
    // The page deletes the Service of the other part, which has an equal name. The sets exist already.
    assert!(
        output.contains("statefulset.apps/redis-sts unchanged\n"),
        "{output}"
    );
    assert!(output.lines().any(|line| line == "OK"), "{output}");
    let address = kubectl.pod_ip("redis-sts-1");
    assert!(output.contains(&format!("({address})")), "{output}");
    assert!(output.contains("1 packets received"), "{output}");
    wait_for_output(
        &kubectl,
        "redis-pv-sts-1",
        "info replication",
        "link_status:up",
    );
    assert_eq!(
        redis_cli(&kubectl, "redis-pv-sts-0", "set a 111"),
        Ok("OK".into())
    );
    wait_for_output(&kubectl, "redis-pv-sts-1", "get a", "111");
    assert_eq!(
        redis_cli(&kubectl, "redis-pv-sts-0", "save"),
        Ok("OK".into())
    );
    shell.ok("kubectl delete pod redis-pv-sts-0");
    kubectl.wait_ready("redis-pv-sts", 2);
    wait_for_output(&kubectl, "redis-pv-sts-0", "get a", "111");

    questions_of_readers(&kubectl, &shell);
    the_systems_pods_are_like_others(&shell);
    a_class_that_nobody_serves(&kubectl, &shell);

    shell.ok("kubectl delete -f .");
    wait_for("all pods to be deleted", PATIENCE, || {
        let left = shell.ok("kubectl get sts,svc,pod -l '!component' -o name");
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    let claims = shell.ok("kubectl get pvc -o name");
    assert_eq!(claims.matches("redis-100m-pvc-redis-pv-sts-").count(), 2);
}

/// The creator of a pod, the existing objects, and the change of a Service to headless: the Service is recreated.
fn questions_of_readers(kubectl: &Kubectl, shell: &Shell) {
    let described = shell.ok("kubectl describe pod redis-sts-0");
    let owner = "Controlled By:  StatefulSet/redis-sts\n";
    assert!(described.contains(owner), "{described}");
    let all = shell.ok("kubectl get all -o name");
    for name in [
        "pod/redis-sts-1",
        "service/redis-svc",
        "statefulset.apps/redis-sts",
    ] {
        assert!(all.lines().any(|line| line == name), "{all}");
    }
    let service = |address: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: vip}}, \
             spec: {{{address}selector: {{app: redis-sts}}, ports: [{{port: 6379}}]}}}}"
        )
    };
    kubectl.apply(&service(""));
    let headless = service("clusterIP: None, ");
    let refused = kubectl.run_with_input(&["apply", "-f", "-"], &headless);
    let reason = "spec.clusterIPs[0]: Invalid value: [\"None\"]: may not change once set";
    assert!(refused.stderr.contains(reason), "{refused:#?}");
    shell.ok("kubectl delete service vip");
    kubectl.apply(&headless);
    shell.ok("kubectl delete service vip");
}

/// seeds.md C24: a Deployment's pods in `kube-system`, whose deletion does not affect the cluster's DNS.
fn the_systems_pods_are_like_others(shell: &Shell) {
    shell.ok("kubectl create deployment coredns -n kube-system --image=redis:5-alpine");
    shell.ok("kubectl rollout status deployment/coredns -n kube-system --timeout=300s");
    let pods = shell.ok("kubectl get pod -o wide -n kube-system");
    let header: Vec<&str> = pods
        .lines()
        .next()
        .unwrap_or_default()
        .split("  ")
        .collect();
    let columns: Vec<&str> = header
        .iter()
        .map(|c| c.trim())
        .filter(|c| !c.is_empty())
        .collect();
    let expected = [
        "NAME",
        "READY",
        "STATUS",
        "RESTARTS",
        "AGE",
        "IP",
        "NODE",
        "NOMINATED NODE",
        "READINESS GATES",
    ];
    assert_eq!(columns, expected, "{pods}");
    let row = pods.lines().nth(1).expect("a pod");
    let name = row.split_whitespace().next().expect("a name");
    let parts: Vec<&str> = name.split('-').collect();
    assert!(parts.len() == 3 && parts[0] == "coredns", "{pods}");
    assert_eq!(parts[2].len(), 5, "{pods}");
    shell.ok(&format!("kubectl delete pod {name} -n kube-system"));
    shell.ok("kubectl exec redis-sts-0 -- ping -c 1 redis-sts-1.redis-svc");
    shell.ok("kubectl delete deployment coredns -n kube-system");
}

/// seeds.md M11: the status of a claim while it waits for an external provisioner.
fn a_class_that_nobody_serves(kubectl: &Kubectl, shell: &Shell) {
    kubectl.apply(
        "kind: StorageClass
apiVersion: storage.k8s.io/v1
metadata: {name: nfs-client}
provisioner: k8s-sigs.io/nfs-subdir-external-provisioner
---
kind: PersistentVolumeClaim
apiVersion: v1
metadata: {name: nfs}
spec:
  storageClassName: nfs-client
  accessModes: [ReadWriteMany]
  resources: {requests: {storage: 100Mi}}
",
    );
    let message = "persistentvolume-controller  Waiting for a volume to be created either by the \
        external provisioner 'k8s-sigs.io/nfs-subdir-external-provisioner' or manually by the \
        system administrator";
    wait_for("the event", PATIENCE, || {
        let described = shell.ok("kubectl describe pvc nfs");
        let is_reported = described.contains(message) && described.contains("Pending");
        if is_reported { Ok(()) } else { Err(described) }
    });
    shell.ok("kubectl delete pvc nfs");
}
