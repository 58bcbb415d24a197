//! A second node is lost during a promotion, and a node is lost during a move: the started operation completes when the
//! node returns, once and with unchanged contents, and a move can be cancelled meanwhile (docs/storage.md).

use std::path::Path;
use std::process::{Child, Command, Stdio};

use end_to_end::cluster::is_ready;
use end_to_end::program::ok;
use end_to_end::{Kubectl, binary, text, wait_for};
use serde_json::Value;

use super::killed_server::wait_for_stage;
use super::local_replicated::{
    CLAIM, CLASS, SET, a_node_is_lost, check_retained_lines, claim, lines, node_and_uid, record,
    subvolumes, wait_for_copy, with, with_the_set,
};
use super::{Cluster, Loss, get};

#[test]
fn a_promotion_goes_on_after_its_node_was_lost() {
    let (mut cluster, kubectl) = with_the_set();
    let name = cluster.server.network.run(|| {
        wait_for_copy(&kubectl);
        let record = record(&kubectl).expect("a record");
        text(&record, "/replica").to_owned()
    });
    let replica = number(&name);
    let lose = |cluster: &mut Cluster| {
        wait_for_stage("Promoting", cluster);
        is_away(cluster, &kubectl, replica);
        cluster.bring_back(replica, Loss::Killed);
    };
    let lost = a_node_is_lost(&mut cluster, &kubectl, Loss::Killed, 2, &[], lose);
    assert_ne!(lost, replica);
    cluster.bring_back(lost, Loss::Killed);
    let data = cluster.nodes[lost].data();
    cluster.server.network.run(|| {
        check_retained_lines(&kubectl, &data, 1);
        wait_for_copy(&kubectl);
        // The volume was promoted once.
        let record = record(&kubectl).expect("a record");
        assert_eq!(record["epoch"].as_u64(), Some(2), "{record}");
    });
    cluster.shut_down();
}

#[test]
fn a_move_waits_for_a_node_that_was_lost_and_can_be_given_up() {
    let without_replica = CLASS.replace(
        "replicas: '1', replicationIntervalSeconds: '2'",
        "replicas: '0'",
    );
    let set = SET.replace("storage: 128Mi", "storage: 1Gi");
    let (mut cluster, kubectl) = with(2, &without_replica, &set);
    let data = cluster.server.data();
    // The file is large, so that a copy takes some time.
    let fill = "head -c 536870912 /dev/urandom >/data/large; sync";
    cluster.server.network.run(|| {
        kubectl.ok(&["exec", "db-0", "--", "sh", "-c", fill]);
    });
    let mut stages: Vec<String> = Vec::new();
    // The receiver, then the sender.
    for loses_receiver in [true, false] {
        let (from, to) = cluster.server.network.run(|| from_and_to(&kubectl));
        let lost = number(if loses_receiver { &to } else { &from });
        let command = cluster.server.network.run(|| begin(&data, &to));
        wait_for_move("Preparing", &cluster, &kubectl, &to);
        is_away(&mut cluster, &kubectl, lost);
        let stage = cluster.server.network.run(|| moved(&kubectl));
        assert_ne!(stage["stage"], "Moved", "{stage}");
        cluster.bring_back(lost, Loss::Killed);
        let output = command.wait_with_output().expect("wait for the command");
        assert!(output.status.success(), "{output:?}");
        stages = cluster.server.network.run(|| {
            wait_ready_on(&kubectl, &to);
            whole_lines(&kubectl, &stages)
        });
        only_on(&cluster, &kubectl, &to);
    }
    // The receiver stays absent, and the user cancels the move.
    let (from, to) = cluster.server.network.run(|| from_and_to(&kubectl));
    let command = cluster.server.network.run(|| begin(&data, &to));
    wait_for_move("Preparing", &cluster, &kubectl, &to);
    is_away(&mut cluster, &kubectl, number(&to));
    cluster.server.network.run(|| {
        ok(&["volume", "move", CLAIM, "--cancel", "--data-dir", &data]);
        wait_ready_on(&kubectl, &from);
        whole_lines(&kubectl, &stages);
    });
    // The receiver may still have a part of the copy.
    cluster.bring_back(number(&to), Loss::Killed);
    let output = command.wait_with_output().expect("wait for the command");
    assert!(!output.status.success(), "{output:?}");
    only_on(&cluster, &kubectl, &from);
    cluster.shut_down();
}

/// The index of a node.
fn number(name: &str) -> usize {
    let number: usize = name[1..].parse().expect("a number");
    number - 1
}

/// Kills a node with its pods, and waits until its Node is not ready.
fn is_away(cluster: &mut Cluster, kubectl: &Kubectl, lost: usize) {
    cluster.lose(lost, Loss::Killed);
    let name = format!("n{}", lost + 1);
    cluster.server.network.run(|| {
        wait_for("the node to be away", 120, || {
            match is_ready(&get(kubectl, &["node", &name])?) {
                true => Err("ready"),
                false => Ok(()),
            }
            .map_err(str::to_owned)
        });
    });
}

/// The node of the pod, and the other node.
fn from_and_to(kubectl: &Kubectl) -> (String, String) {
    let (from, _) = node_and_uid(kubectl);
    let to = if from == "n1" { "n2" } else { "n1" };
    (from, to.to_owned())
}

fn begin(data: &str, to: &str) -> Child {
    Command::new(binary())
        .args(["volume", "move", CLAIM, "--to", to, "--data-dir", data])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the command")
}

/// The record of the move.
fn moved(kubectl: &Kubectl) -> Value {
    let name = claim(kubectl).map(|claim| text(&claim, "/spec/volumeName").to_owned());
    let volume = name
        .and_then(|name| get(kubectl, &["pv", &name]))
        .unwrap_or_default();
    let record = &volume["metadata"]["annotations"]["node.mainstay.dev/volume-move"];
    serde_json::from_str(record.as_str().unwrap_or("{}")).expect("JSON")
}

fn wait_for_move(stage: &str, cluster: &Cluster, kubectl: &Kubectl, to: &str) {
    cluster.server.network.run(|| {
        wait_for(stage, 120, || {
            let record = moved(kubectl);
            match record["stage"] == stage && record["to"] == *to {
                true => Ok(()),
                false => Err(record),
            }
        });
    });
}

fn wait_ready_on(kubectl: &Kubectl, node: &str) {
    wait_for("the pod on its node", 300, || {
        let pod = get(kubectl, &["pod", "db-0"])?;
        match is_ready(&pod) && pod["spec"]["nodeName"] == *node {
            true => Ok(()),
            false => Err(pod["status"].to_string()),
        }
    });
}

/// The lines of the volume, which begin with the lines in `before` and have no gap.
#[track_caller]
fn whole_lines(kubectl: &Kubectl, before: &[String]) -> Vec<String> {
    let lines = wait_for("the lines", 120, || match lines(kubectl) {
        lines if lines.len() > before.len() => Ok(lines),
        lines => Err(lines),
    });
    assert!(lines.starts_with(before), "{lines:?}");
    for (at, line) in lines.iter().enumerate() {
        let number = line
            .split_once(' ')
            .and_then(|(number, _)| number.parse().ok());
        assert_eq!(number, Some(at + 1), "{line}");
    }
    lines
}

/// Waits until only this node has data of the volume: the volume itself.
fn only_on(cluster: &Cluster, kubectl: &Kubectl, node: &str) {
    let volume = cluster.server.network.run(|| {
        let claim = claim(kubectl).expect("a claim");
        text(&claim, "/spec/volumeName").to_owned()
    });
    wait_for("the volume on one node", 300, || {
        let of = |role: &end_to_end::lan::Role| subvolumes(Path::new(&role.data()), &volume);
        let left: Vec<_> = cluster.nodes.iter().map(of).collect();
        let is_only = left
            .iter()
            .enumerate()
            .all(|(at, data)| data.len() == usize::from(at == number(node)));
        match is_only {
            true => Ok(()),
            false => Err(left),
        }
    });
}
