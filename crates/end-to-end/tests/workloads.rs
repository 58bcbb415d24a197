//! Deployments, Jobs, CronJobs and DaemonSets by the standard client, on real containers.

use end_to_end::{Instance, text, wait_for};
use serde_json::Value;

/// The names of the running pods with a label.
fn running(instance: &Instance, selector: &str) -> Vec<String> {
    let listed = instance.kubectl().json(&["get", "pods", "-l", selector]);
    let pods = listed["items"].as_array().cloned().unwrap_or_default();
    let runs = |pod: &Value| {
        pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
    };
    let names = pods.iter().filter(|pod| runs(pod));
    names
        .map(|pod| text(pod, "/metadata/name").to_owned())
        .collect()
}

/// kubectl.md 3.1, 3.2, 3.5, 3.6: create, update, history, undo, scale, expose, restart.
#[test]
fn a_deployment() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    kubectl.ok(&[
        "create",
        "deployment",
        "web",
        "--image=mainstay/hello",
        "--replicas=2",
    ]);
    let status = ["rollout", "status", "deployment/web", "--timeout=300s"];
    let done = kubectl.ok(&status);
    assert!(
        done.ends_with("deployment \"web\" successfully rolled out\n"),
        "{done}"
    );
    assert_eq!(running(&instance, "app=web").len(), 2);

    kubectl.ok(&["set", "env", "deployment/web", "COLOUR=blue"]);
    kubectl.ok(&status);
    kubectl.ok(&["rollout", "undo", "deployment/web"]);
    kubectl.ok(&status);
    let history = kubectl.ok(&["rollout", "history", "deployment/web"]);
    let numbers: Vec<&str> = history
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| word.parse::<u32>().is_ok())
        .collect();
    assert_eq!(numbers, ["2", "3"], "{history}");
    let sets = kubectl.json(&["get", "replicasets"]);
    assert_eq!(sets["items"].as_array().map(Vec::len), Some(2));

    kubectl.ok(&["scale", "deployment/web", "--replicas=3"]);
    kubectl.ok(&status);
    kubectl.ok(&["expose", "deployment/web", "--port=8080"]);
    wait_for("three endpoints", 60, || {
        let slices = ["endpointslices", "-l", "kubernetes.io/service-name=web"];
        let slices = kubectl.get_for_wait(&slices)?;
        let endpoints = slices["items"][0]["endpoints"].as_array().map(Vec::len);
        if endpoints == Some(3) {
            Ok(())
        } else {
            Err(slices)
        }
    });
    let before = running(&instance, "app=web");
    kubectl.ok(&["rollout", "restart", "deployment/web"]);
    kubectl.ok(&status);
    wait_for("other pods", 30, || {
        let now = running(&instance, "app=web");
        let other = now.len() == 3 && now.iter().all(|name| !before.contains(name));
        if other { Ok(()) } else { Err(now) }
    });
    kubectl.ok(&["delete", "deployment", "web", "--timeout=300s"]);
    wait_for("no pods", 30, || {
        let left = running(&instance, "app=web");
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

/// A job completes, its log can be read, and a CronJob creates a job at its scheduled time.
#[test]
fn a_job_and_a_cron_job() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    kubectl.ok(&[
        "create",
        "job",
        "once",
        "--image=mainstay/hello",
        "--",
        "/mainstay",
        "version",
    ]);
    kubectl.ok(&[
        "wait",
        "--for=condition=Complete",
        "job/once",
        "--timeout=300s",
    ]);
    let log = kubectl.ok(&["logs", "job/once"]);
    assert!(log.starts_with("mainstay "), "{log}");

    kubectl.ok(&[
        "create",
        "job",
        "wrong",
        "--image=mainstay/hello",
        "--",
        "/mainstay",
        "nonsense",
    ]);
    kubectl.ok(&[
        "patch",
        "job",
        "wrong",
        "-p",
        "{\"spec\":{\"backoffLimit\":0}}",
    ]);
    kubectl.ok(&[
        "wait",
        "--for=condition=Failed",
        "job/wrong",
        "--timeout=300s",
    ]);

    let refused = kubectl.fails(&[
        "create",
        "cronjob",
        "wrong",
        "--image=mainstay/hello",
        "--schedule=now",
    ]);
    assert!(
        refused.contains("expected exactly 5 fields, found 1: [now]"),
        "{refused}"
    );
    kubectl.ok(&[
        "create",
        "cronjob",
        "often",
        "--image=mainstay/hello",
        "--schedule=@every 2s",
        "--",
        "/mainstay",
        "version",
    ]);
    wait_for("a success by the clock", 60, || {
        let cron_job = kubectl.get_for_wait(&["cronjob", "often"])?;
        match cron_job["status"]["lastSuccessfulTime"].is_string() {
            true => Ok(()),
            false => Err(cron_job),
        }
    });
    kubectl.ok(&["create", "job", "by-hand", "--from=cronjob/often"]);
    kubectl.ok(&[
        "wait",
        "--for=condition=Complete",
        "job/by-hand",
        "--timeout=300s",
    ]);
}

/// The only node has its pod, and gets it again after the pod is deleted.
#[test]
fn a_daemon_set() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    kubectl.apply(
        "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent}, spec: {selector: \
         {matchLabels: {app: agent}}, template: {metadata: {labels: {app: agent}}, spec: \
         {containers: [{name: hello, image: mainstay/hello}]}}}}",
    );
    kubectl.ok(&["rollout", "status", "daemonset/agent", "--timeout=300s"]);
    let first = running(&instance, "app=agent");
    assert_eq!(first.len(), 1);
    kubectl.ok(&["delete", "pod", &first[0], "--timeout=300s"]);
    wait_for("another pod", 30, || {
        let now = running(&instance, "app=agent");
        if now.len() == 1 && now != first {
            Ok(())
        } else {
            Err(now)
        }
    });
    kubectl.ok(&["set", "env", "daemonset/agent", "COLOUR=blue"]);
    kubectl.ok(&["rollout", "status", "daemonset/agent", "--timeout=300s"]);
    kubectl.ok(&["rollout", "undo", "daemonset/agent"]);
    kubectl.ok(&["rollout", "status", "daemonset/agent", "--timeout=300s"]);
}

/// A drain waits for the budget; kinds that are stored without effect give a warning.
#[test]
fn budgets_and_what_is_only_kept() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    kubectl.ok(&[
        "create",
        "deployment",
        "web",
        "--image=mainstay/hello",
        "--replicas=2",
    ]);
    kubectl.ok(&[
        "create",
        "poddisruptionbudget",
        "web",
        "--selector=app=web",
        "--min-available=1",
    ]);
    kubectl.ok(&["rollout", "status", "deployment/web", "--timeout=300s"]);
    wait_for("one disruption is allowed", 60, || {
        let budget = kubectl.get_for_wait(&["pdb", "web"])?;
        let allowed = budget["status"]["disruptionsAllowed"] == 1;
        if allowed { Ok(()) } else { Err(budget) }
    });
    // kubectl.md 3.6
    let output = kubectl.ok(&["autoscale", "deployment", "web", "--max=5"]);
    assert_eq!(
        output.trim(),
        "horizontalpodautoscaler.autoscaling/web autoscaled"
    );
    let row = kubectl.ok(&["get", "hpa", "web", "--no-headers"]);
    assert!(row.contains("Deployment/web"), "{row}");
}
