//! ZooKeeper: `examples/zookeeper`. An ensemble that is updated one by one keeps its quorum and its data.

use std::collections::BTreeSet;
use std::thread;

use end_to_end::applications::zookeeper;
use end_to_end::cluster::is_ready;
use end_to_end::{Kubectl, Page, Shell, example, text, wait_for, with_registry_of};

const PODS: [&str; 3] = ["zk-0", "zk-1", "zk-2"];

/// `leader`, `follower`, or the reason why the member is neither.
fn mode(kubectl: &Kubectl, pod: &str) -> Result<String, String> {
    let output = kubectl.run(&["exec", pod, "--", "sh", "/config/ready.sh"]);
    let mode = output.stdout.trim().strip_prefix("Mode: ");
    mode.map(str::to_owned).ok_or(output.stderr)
}

#[track_caller]
fn wait_ensemble(kubectl: &Kubectl) {
    wait_for("a leader with two followers", 90, || {
        let modes = PODS.map(|pod| mode(kubectl, pod).unwrap_or_else(|why| why));
        let count = |mode_name: &str| modes.iter().filter(|mode| *mode == mode_name).count();
        if count("leader") == 1 && count("follower") == 2 {
            Ok(())
        } else {
            Err(modes)
        }
    });
}

/// Runs commands of ZooKeeper's own client, against the ensemble.
fn run_command(shell: &Shell, pod: &str, command: &str) -> String {
    let client = format!("kubectl exec {pod} -- zkCli.sh -server zk-client:2181 {command}");
    wait_for(command, 60, || shell.run(&client).success())
}

/// findings U7: the page, as pasted.
#[test]
fn a_quorum_is_rolled_one_by_one() {
    let (_registry, instance) = with_registry_of(&[("library/zookeeper", "3.8", &zookeeper())]);
    let kubectl = instance.kubectl();
    let shell = Shell::new(&instance, example("zookeeper"));
    let page = Page::open(&instance, "examples/zookeeper/README.md");
    let settings = "Every ensemble that elects a leader";
    let eviction = "Two members serve at each moment";
    page.paste("", Some(settings));
    kubectl.wait_ready("zk", 3);
    wait_ensemble(&kubectl);

    let before = PODS.map(|pod| kubectl.pod_uid(pod));
    let (log, output) = thread::scope(|scope| {
        let watched = scope.spawn(|| {
            let mut log = BTreeSet::new();
            let mut served = BTreeSet::from(before.clone());
            wait_for("the rollout", 120, || {
                let (away, renewed) = members(&kubectl, &before, &mut served);
                assert!(away.len() <= 1, "no quorum: {away:?} are away");
                log.extend(away);
                if renewed == 3 { Ok(()) } else { Err(renewed) }
            });
            log
        });
        let output = page.paste(settings, Some(eviction)).stdout;
        (watched.join().expect("the watch of the rollout"), output)
    });
    assert!(!log.is_empty(), "the watch observed no absent member");
    assert!(output.lines().any(|line| line == "Ghent"), "{output}");
    wait_ensemble(&kubectl);
    run_command(&shell, "zk-2", "set /town Bruges");

    drained(&kubectl, &shell, &page, eviction);
    page.finish();

    // The leader is deleted; the other members elect a new leader, and continue.
    let leader = PODS
        .iter()
        .find(|pod| mode(&kubectl, pod).as_deref() == Ok("leader"));
    kubectl.ok(&["delete", "pod", leader.expect("a leader")]);
    kubectl.wait_ready("zk", 3);
    wait_ensemble(&kubectl);
    let read = run_command(&shell, "zk-0", "get /town");
    assert!(read.lines().any(|line| line == "Bruges"), "{read}");
}

/// A drain evicts one member; the budget protects the other members, which continue.
fn drained(kubectl: &Kubectl, shell: &Shell, page: &Page, eviction: &str) {
    wait_for("the budget to allow one to go", 30, || {
        let budget = kubectl.get_for_wait(&["pdb", "zk"])?;
        let allowed = budget["status"]["disruptionsAllowed"] == 1;
        if allowed { Ok(()) } else { Err(budget) }
    });
    // The page uncordons the node at once, so the drain is also run before the page.
    let drain = "kubectl drain $(kubectl get nodes -o name) --pod-selector=app=zk --timeout=10s";
    let blocked = shell.run(drain);
    let why = "Cannot evict pod as it would violate the pod's disruption budget";
    assert!(blocked.stderr.contains(why), "{blocked:#?}");
    let ready = PODS.into_iter().filter(|pod| mode(kubectl, pod).is_ok());
    let ready: Vec<&str> = ready.collect();
    assert_eq!(ready.len(), 2, "{ready:?}");
    let read = run_command(shell, ready[0], "get /town");
    assert!(read.lines().any(|line| line == "Bruges"), "{read}");
    let output = page.paste(eviction, None).stdout;
    let is_protected = |line| line == "the budget keeps two members";
    assert!(output.lines().any(is_protected), "{output}");
    kubectl.wait_ready("zk", 3);
    wait_ensemble(kubectl);
}

/// The members that do not serve, and the number of ready members with a UID that is not in `before`.
///
/// `served` are the members that have been ready: while a leader is elected no member responds, but a member takes part
/// in the quorum.
fn members(
    kubectl: &Kubectl,
    before: &[String],
    served: &mut BTreeSet<String>,
) -> (Vec<String>, usize) {
    let pods = kubectl.json(&["get", "pods", "-l", "app=zk"]);
    let mut away: Vec<String> = PODS.map(str::to_owned).to_vec();
    let mut renewed = 0;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let uid = text(pod, "/metadata/uid");
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        if is_ready(pod) {
            served.insert(uid.to_owned());
            renewed += usize::from(before.iter().all(|old| old != uid));
        }
        let runs = !pod["status"]["containerStatuses"][0]["state"]["running"].is_null();
        if runs && served.contains(uid) {
            away.retain(|name| pod["metadata"]["name"] != name.as_str());
        }
    }
    (away, renewed)
}
