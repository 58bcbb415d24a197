//! ZooKeeper: the other members elect a new leader, and the member that replaces the lost one copies its data.

use std::collections::BTreeSet;

use end_to_end::image::Image;
use end_to_end::{Kubectl, applications};

use super::{Application, ReadResult, SHORT_LEASE, exec, no_acknowledged_write_is_lost, numbers};

struct ZooKeeper;

#[test]
fn zookeeper_keeps_each_acknowledged_node() {
    no_acknowledged_write_is_lost::<ZooKeeper>(SHORT_LEASE);
}

const PODS: [&str; 3] = ["keeper-0", "keeper-1", "keeper-2"];

impl Application for ZooKeeper {
    const SET: &str = "keeper";
    const REPLICAS: u64 = 3;
    const MANIFEST: &str = "zookeeper/failover.yaml";
    const PROGRAMS: &[&str] = &["java"];
    const IMAGE: (&str, &str) = ("library/zookeeper", "3.8");
    const FIRST_START: Option<&str> = Some("keeper-new");
    const WRITER_ENVIRONMENT: &str = "[{name: JVMFLAGS, value: -Xmx64m}]";
    const WRITER: &str = WRITER;

    fn image() -> Image {
        applications::zookeeper()
    }

    fn primary(kubectl: &Kubectl) -> ReadResult<String> {
        let modes = modes(kubectl);
        let leader = modes
            .iter()
            .position(|mode| mode.as_deref() == Ok("Mode: leader\n"));
        let leader = leader.ok_or_else(|| format!("{modes:?}"))?;
        Ok(PODS[leader].to_owned())
    }

    fn is_whole(kubectl: &Kubectl) -> ReadResult<()> {
        let modes = modes(kubectl);
        let follows = |mode: &&ReadResult<String>| mode.as_deref() == Ok("Mode: follower\n");
        match modes.iter().filter(follows).count() {
            2 => Ok(()),
            _ => Err(format!("{modes:?}")),
        }
    }

    /// Reads from each member, including the replaced member.
    fn stored(kubectl: &Kubectl) -> ReadResult<BTreeSet<u64>> {
        // A follower without applied writes does not complete its sync. The client prints events of its connection at
        // any time, also within the list.
        let list = "cli() { zkCli.sh -server 127.0.0.1:2181 \"$@\"; }; \
                    cli sync /log 2>&1 | grep -q 'Sync is OK' || { echo srvr | nc 127.0.0.1 2181 >&2; exit 1; }; \
                    cli ls /log 2>/dev/null | sed -n '/^\\[/,/]$/p' | grep .";
        let mut stored: Option<BTreeSet<u64>> = None;
        for pod in PODS {
            let numbers_of_member = numbers(&exec(kubectl, pod, &["sh", "-c", list])?);
            eprintln!(
                "{pod} has {} nodes, the last {:?}",
                numbers_of_member.len(),
                numbers_of_member.last()
            );
            stored = Some(match stored {
                Some(stored) => stored.intersection(&numbers_of_member).copied().collect(),
                None => numbers_of_member,
            });
        }
        Ok(stored.unwrap_or_default())
    }
}

/// `Mode: leader`, `Mode: follower`, or an error, of each member.
fn modes(kubectl: &Kubectl) -> [ReadResult<String>; 3] {
    PODS.map(|pod| exec(kubectl, pod, &["sh", "/config/ready.sh"]))
}

/// Sends commands to one client, which prints a response for each. A client whose session has expired is replaced; its
/// numbers are not used again.
const WRITER: &str = r#"
start=0
commands() {
  echo 'create /log'
  n=$start
  while sleep 0.1; do
    n=$((n + 1))
    echo "create /log/$n"
  done
}
servers=keeper-0.keeper:2181,keeper-1.keeper:2181,keeper-2.keeper:2181
while sleep 1; do
  start=$((start + 1000000))
  commands | zkCli.sh -timeout 10000 -server $servers 2>&1 | while read -r line; do
    case $line in
    *'Created /log/'*) echo "acknowledged ${line##*/}" ;;
    *xpired* | *'not connected'*) echo "$line"; kill $(pidof java); break ;;
    esac
  done
done
"#;
