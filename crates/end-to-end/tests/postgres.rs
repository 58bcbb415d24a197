//! PostgreSQL: `examples/postgres`. Replicas copy the primary and follow it, whichever member is deleted.

use end_to_end::applications::postgres;
use end_to_end::process::kill_in_pod;
use end_to_end::{Kubectl, Page, Shell, example, wait_for, with_registry_of};

/// The response of a member, or its error.
fn query(kubectl: &Kubectl, pod: &str, sql: &str) -> Result<String, String> {
    let client = [
        "psql",
        "-U",
        "postgres",
        "-v",
        "ON_ERROR_STOP=1",
        "-Atc",
        sql,
    ];
    let exec = ["exec", pod, "-c", "postgres", "--"];
    let response = kubectl.run(&[&exec[..], &client].concat()).success();
    let response = response.map(|printed| printed.trim_end().to_owned());
    response.map_err(|output| output.stderr)
}

#[track_caller]
fn wait_for_result(kubectl: &Kubectl, pod: &str, sql: &str, expected: &str) {
    wait_for(&format!("{expected} from {pod}"), 60, || {
        let output = query(kubectl, pod, sql);
        if output.as_deref() == Ok(expected) {
            Ok(())
        } else {
            Err(output)
        }
    });
}

/// findings U7: the page, as pasted.
#[test]
fn replicas_follow_the_primary() {
    let (_registry, instance) = with_registry_of(&[("library/postgres", "15", &postgres())]);
    let kubectl = instance.kubectl();
    let shell = Shell::new(&instance, example("postgres"));
    let page = Page::open(&instance, "examples/postgres/README.md");
    let output = page.paste("", Some("This command adds a replica")).stdout;
    assert!(output.contains(" Ghent"), "{output}");
    let address = kubectl.pod_ip("postgres-1");
    let streams = output
        .lines()
        .any(|line| line.contains(&address) && line.contains("streaming"));
    assert!(streams, "{output}");
    kubectl.wait_ready("postgres", 2);
    wait_for_result(&kubectl, "postgres-1", "SELECT pg_is_in_recovery()", "t");
    let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    let names = "SELECT string_agg(name, ' ' ORDER BY name) FROM towns";
    let add = |town: &str| format!("INSERT INTO towns VALUES ('{town}')");
    let refused = query(&kubectl, "postgres-1", &add("Bruges"));
    let refused = refused.expect_err("a replica takes no writes");
    assert!(refused.contains("read-only transaction"), "{refused}");

    // An additional replica copies the data.
    page.paste("This command adds a replica", None);
    kubectl.wait_ready("postgres", 3);
    wait_for_result(&kubectl, "postgres-2", names, "Ghent");
    wait_for_result(&kubectl, "postgres-0", streaming, "2");

    // The primary returns with its data and its name, and is followed again.
    page.ok("kubectl delete pod postgres-0");
    page.finish();
    kubectl.wait_ready("postgres", 3);
    wait_for_result(&kubectl, "postgres-0", streaming, "2");
    let more = query(&kubectl, "postgres-0", &add("Leuven"));
    assert_eq!(more.as_deref(), Ok("INSERT 0 1"));
    // The primary crashes: acknowledged writes are in its log.
    let more = query(&kubectl, "postgres-0", &add("Mons"));
    assert_eq!(more.as_deref(), Ok("INSERT 0 1"));
    kill_in_pod(&kubectl, "postgres-0", "postgres");
    wait_for_result(&kubectl, "postgres-0", streaming, "2");
    for pod in ["postgres-0", "postgres-1", "postgres-2"] {
        wait_for_result(&kubectl, pod, names, "Ghent Leuven Mons");
    }
    let read = "psql -h postgres-read -U postgres -Atc 'SELECT count(*) FROM towns'";
    let read = format!("kubectl exec postgres-1 -c postgres -- env PGPASSWORD=change-me {read}");
    assert_eq!(shell.ok(&read), "3\n");
}
