//! MariaDB: `examples/mariadb`. Each replica copies the data of the member before it; no acknowledged row is lost when
//! members are deleted, updated or killed during writes.

use std::collections::BTreeSet;

use end_to_end::applications::mariadb;
use end_to_end::process::kill_in_pod;
use end_to_end::{Kubectl, Page, Shell, example, wait_for, wait_for_text, with_registry_of};

const PODS: [&str; 3] = ["mariadb-0", "mariadb-1", "mariadb-2"];

/// The response of a member to a query, column by column.
fn query(kubectl: &Kubectl, pod: &str, sql: &str) -> Result<String, String> {
    let client = format!("MYSQL_PWD=$ROOT_PASSWORD mariadb -u root -N -e \"{sql}\"");
    let output = kubectl.run(&["exec", pod, "-c", "mariadb", "--", "sh", "-c", &client]);
    output.success().map_err(|output| output.stderr)
}

/// The rows whose writes were acknowledged.
fn acknowledged(kubectl: &Kubectl) -> BTreeSet<u64> {
    let notes = kubectl.run(&["exec", "writer", "--", "cat", "/notes/acknowledged"]);
    numbers(&notes.stdout)
}

fn numbers(lines: &str) -> BTreeSet<u64> {
    lines.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Waits until more writes are acknowledged.
#[track_caller]
fn wait_progress(kubectl: &Kubectl) {
    let before = acknowledged(kubectl).len();
    wait_for("the writer to get on", 90, || {
        let now = acknowledged(kubectl).len();
        if now > before + 5 { Ok(()) } else { Err(now) }
    });
}

/// findings U7: the page, as pasted.
#[test]
fn no_acknowledged_row_is_lost() {
    let (_registry, mut instance) = with_registry_of(&[("library/mariadb", "10.11", &mariadb())]);
    let kubectl = instance.kubectl();
    let shell = Shell::new(&instance, example("mariadb"));
    let page = Page::open(&instance, "examples/mariadb/README.md");
    let writer = "## Check that no write is lost";
    who_follows_whom(&page.paste("", Some(writer)).stdout);
    kubectl.wait_ready("mariadb", 3);
    for (ordinal, pod) in PODS.iter().enumerate() {
        let id = query(&kubectl, pod, "SELECT @@server_id");
        assert_eq!(id, Ok(format!("{}\n", 100 + ordinal)));
    }
    page.paste(writer, Some("Now cause failures"));
    wait_progress(&kubectl);

    // A replica and then the primary are deleted.
    shell.ok("kubectl delete pod mariadb-1");
    kubectl.wait_ready("mariadb", 3);
    wait_progress(&kubectl);
    page.ok("kubectl delete pod mariadb-0");
    kubectl.wait_ready("mariadb", 3);
    wait_progress(&kubectl);
    // The primary's process is killed.
    kill_in_pod(&kubectl, "mariadb-0", "mariadbd");
    wait_for("the restart", 60, || {
        let status =
            kubectl.get_for_wait(&["pod", "mariadb-0"])?["status"]["containerStatuses"].clone();
        let statuses = status.as_array().into_iter().flatten();
        let mut restarts = statuses.map(|s| s["restartCount"].as_u64());
        if restarts.any(|count| count == Some(1)) {
            Ok(())
        } else {
            Err(status)
        }
    });
    kubectl.wait_ready("mariadb", 3);
    wait_progress(&kubectl);
    // All members are updated, from the last to the first. During the update the whole program is killed: the databases
    // continue without it, and the restarted program continues the update.
    let last = kubectl.pod_uid("mariadb-2");
    page.ok("kubectl rollout restart sts/mariadb");
    wait_for("the first pod to be replaced", 60, || {
        let uid = shell.run("kubectl get pod mariadb-2 -o jsonpath={.metadata.uid}");
        if uid.code == 0 && uid.stdout != last {
            Ok(())
        } else {
            Err(uid)
        }
    });
    let before = acknowledged(&kubectl);
    instance.kill();
    instance.start_again();
    let kubectl = instance.kubectl();
    page.ok("kubectl rollout status sts/mariadb");
    kubectl.wait_ready("mariadb", 3);
    wait_progress(&kubectl);
    assert!(acknowledged(&kubectl).is_superset(&before));

    // The node stops in order and restarts, and so does the writer's log, which is in an emptyDir.
    let before = acknowledged(&kubectl);
    instance.interrupt();
    instance.start_again();
    let kubectl = instance.kubectl();
    shell.ok("kubectl wait --for=condition=Ready pod/writer --timeout=300s");
    kubectl.wait_ready("mariadb", 3);
    assert!(acknowledged(&kubectl).is_superset(&before));

    more_replicas(&kubectl, &page);
    page.paste("Now cause failures", Some("## One more replica"));
    nothing_is_missing(&kubectl, &page);
    page.finish();
    no_empty_primary(&kubectl, &shell);
}

/// The page's output for the primary, and for a replica.
fn who_follows_whom(output: &str) {
    for part in [
        "binlog.",
        "Slave_IO_Running: Yes",
        "Master_Host: mariadb-0.mariadb",
    ] {
        assert!(output.contains(part), "{part}: {output}");
    }
}

/// An additional replica copies the data, and a replica is recreated.
fn more_replicas(kubectl: &Kubectl, page: &Page) {
    page.paste("## One more replica", None);
    kubectl.wait_ready("mariadb", 4);
    let id = query(kubectl, "mariadb-3", "SELECT @@server_id");
    assert_eq!(id, Ok("103\n".into()));
    let claim = || kubectl.json(&["get", "pvc", "data-mariadb-2"])["metadata"]["uid"].clone();
    let before = claim();
    page.ok("kubectl delete pvc data-mariadb-2 --wait=false && kubectl delete pod mariadb-2");
    kubectl.wait_ready("mariadb", 4);
    assert_ne!(claim(), before);
}

/// A primary without its disk does not start with an empty database while a replica has the data.
fn no_empty_primary(kubectl: &Kubectl, shell: &Shell) {
    shell.ok("kubectl delete pvc data-mariadb-0 --wait=false");
    shell.ok("kubectl delete pod mariadb-0");
    let message = "mariadb-0 has lost its data, but mariadb-1 is there";
    wait_for_text(message, 60, || {
        shell.run("kubectl logs mariadb-0 -c prepare").stdout
    });
    let rows = query(
        kubectl,
        "mariadb-2",
        "SELECT COUNT(*) > 25 FROM app.counted",
    );
    assert_eq!(rows, Ok("1\n".into()));
}

/// Each member has all acknowledged rows, after the page has stopped the writer.
fn nothing_is_missing(kubectl: &Kubectl, page: &Page) {
    wait_for("the writer to stop", 30, || {
        let list = ["exec", "writer", "--", "ls", "/notes/stopped"];
        kubectl.run(&list).success()
    });
    let acknowledged = acknowledged(kubectl);
    assert!(acknowledged.len() > 25, "{}", acknowledged.len());
    for pod in PODS.into_iter().chain(["mariadb-3"]) {
        wait_for(&format!("all rows at {pod}"), 60, || {
            let rows = query(kubectl, pod, "SELECT n FROM app.counted")?;
            let present = numbers(&rows);
            let missing: Vec<&u64> = acknowledged.difference(&present).collect();
            if missing.is_empty() {
                Ok(())
            } else {
                let state = query(kubectl, pod, "SHOW SLAVE STATUS");
                Err(format!("missing: {missing:?}; {state:?}"))
            }
        });
    }
    // The comparison of the page, repeated: at its first run, a replica may lack some rows.
    let noted = page.ok("kubectl exec writer -- sh -c 'wc -l < /notes/acknowledged'");
    let present = page.ok(concat!(
        "kubectl exec mariadb-2 -c mariadb -- sh -c ",
        r#"'MYSQL_PWD=$ROOT_PASSWORD mariadb -u root -e "SELECT COUNT(*) FROM app.counted"'"#
    ));
    let present = present.lines().last().unwrap_or_default();
    let [noted, present] = [noted.trim(), present].map(str::parse::<u64>);
    let [noted, present] = [noted, present].map(|count| count.expect("a number"));
    assert!(present >= noted, "{present} of {noted}");
}
