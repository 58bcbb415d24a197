//! A replica's node stays absent: another node replaces it, and is promoted (docs/storage.md).

use std::path::Path;

use end_to_end::{Kubectl, text, wait_for};

use super::local_replicated::{
    CLAIM, CLASS, a_node_is_lost, check_retained_lines, claim, lines, record, subvolumes,
    wait_for_copy, with_the_set_on,
};
use super::{Cluster, Loss, get};

#[test]
fn another_node_takes_the_place_of_a_replica_that_stays_away() {
    let class = CLASS.replace(
        "replicas: '1'",
        "replicas: '1', replicaReplacementSeconds: '10'",
    );
    let (mut cluster, kubectl) = with_the_set_on(3, &class);
    let first = cluster.server.network.run(|| {
        wait_for_copy(&kubectl);
        replica(&kubectl)
    });
    let away = number(&first);
    cluster.lose(away, Loss::Killed);
    let volume = cluster.server.network.run(|| {
        wait_for("another replica", 300, || {
            let record = record(&kubectl)?;
            match record["replica"] != *first && record["former"][0] == *first {
                true => Ok(()),
                false => Err(record.to_string()),
            }
        });
        wait_for_copy(&kubectl);
        text(&claim(&kubectl).expect("a claim"), "/spec/volumeName").to_owned()
    });
    let copies = |cluster: &Cluster| subvolumes(Path::new(&cluster.nodes[away].data()), &volume);
    // The node of the new replica is promoted, and not the node with the older copies.
    let second = cluster.server.network.run(|| replica(&kubectl));
    cluster.bring_back(away, Loss::Killed);
    cluster.server.network.run(|| {
        wait_for(
            "the copies of the former replica to be removed",
            300,
            || {
                let record = record(&kubectl)?;
                let left = copies(&cluster);
                match record["former"].is_null() && left.is_empty() {
                    true => Ok(()),
                    false => Err(format!("{left:?} {record}")),
                }
            },
        );
    });
    let epoch = 3;
    let lost = a_node_is_lost(&mut cluster, &kubectl, Loss::Killed, epoch, &[], |_| {});
    cluster.server.network.run(|| {
        let pod = get(&kubectl, &["pod", "db-0"]).expect("the pod");
        assert_eq!(text(&pod, "/spec/nodeName"), second);
        assert!(!lines(&kubectl).is_empty());
        // The lost primary is the replica of the next epoch, and stays absent as well.
        wait_for("another replica", 300, || {
            let record = record(&kubectl)?;
            match record["replica"] == *first {
                true => Ok(()),
                false => Err(record.to_string()),
            }
        });
        wait_for_copy(&kubectl);
    });
    cluster.bring_back(lost, Loss::Killed);
    let data = cluster.nodes[lost].data();
    cluster.server.network.run(|| {
        check_retained_lines(&kubectl, &data, 2);
        wait_for("the node to have nothing else", 300, || {
            let record = record(&kubectl)?;
            let left = subvolumes(Path::new(&data), &volume);
            match record["former"].is_null() && left.len() == 1 {
                true => Ok(()),
                false => Err(format!("{left:?} {record}")),
            }
        });
        kubectl.ok(&["delete", "statefulset", "db"]);
        kubectl.ok(&["delete", "pvc", CLAIM]);
        wait_for("all nodes to have nothing", 300, || {
            let nodes = cluster.nodes.iter();
            let left = nodes.flat_map(|node| subvolumes(Path::new(&node.data()), &volume));
            let left: Vec<_> = left.collect();
            match left.is_empty() {
                true => Ok(()),
                false => Err(left),
            }
        });
    });
    cluster.shut_down();
}

/// The node of the replica.
fn replica(kubectl: &Kubectl) -> String {
    let record = record(kubectl).expect("a record");
    text(&record, "/replica").to_owned()
}

/// The number of a node, from 0.
fn number(name: &str) -> usize {
    let number: usize = name[1..].parse().expect("a number");
    number - 1
}
