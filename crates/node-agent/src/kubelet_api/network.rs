//! Traffic counters of a pod's network interfaces.

use std::fs;

use json_tree::{Value, json};

use crate::pods::pod_manager::PodView;

/// The counters of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, for instance `eth0`.
    pub name: String,
    /// Bytes received so far.
    pub received_bytes: u64,
    /// Packets received so far.
    pub received_packets: u64,
    /// Packets that could not be received.
    pub receive_errors: u64,
    /// Received packets that were dropped.
    pub receive_drops: u64,
    /// Bytes sent so far.
    pub sent_bytes: u64,
    /// Packets sent so far.
    pub sent_packets: u64,
    /// Packets that could not be sent.
    pub send_errors: u64,
    /// Packets that were dropped instead of sent.
    pub send_drops: u64,
}

/// The interfaces of the pod, without the loopback; empty for a pod on the host network.
pub fn of_pod(view: &PodView) -> Vec<Interface> {
    let Some(sandbox) = &view.sandbox else {
        return Vec::new();
    };
    // The sandbox may just have ended.
    let Ok(Some(namespace)) = sandbox.netns_path() else {
        return Vec::new();
    };
    // `/proc/<pid>/ns/net` and `/proc/<pid>/net/dev` are of the same process.
    let process = namespace.parent().and_then(|ns| ns.parent());
    let counters = process.map(|process| fs::read_to_string(process.join("net/dev")));
    parse(&counters.and_then(Result::ok).unwrap_or_default())
}

/// The interfaces of the machine, without its loopback.
pub fn of_node() -> Vec<Interface> {
    parse(&fs::read_to_string("/proc/self/net/dev").unwrap_or_default())
}

/// Reads `/proc/net/dev` (proc(5)): two lines of headings, then a line per link.
fn parse(text: &str) -> Vec<Interface> {
    let links = text.lines().skip(2).filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let counter = |index: usize| counters.get(index).copied();
        Some(Interface {
            name: name.trim().to_owned(),
            received_bytes: counter(0)?,
            received_packets: counter(1)?,
            receive_errors: counter(2)?,
            receive_drops: counter(3)?,
            sent_bytes: counter(8)?,
            sent_packets: counter(9)?,
            send_errors: counter(10)?,
            send_drops: counter(11)?,
        })
    });
    links.filter(|link| link.name != "lo").collect()
}

/// The links as kubelet's summary reports them: the first link, and the list of all links.
pub fn summary(links: &[Interface], time: &str) -> Value {
    let link_summary = |link: &Interface| {
        json!({
            "name": link.name,
            "rxBytes": link.received_bytes, "rxErrors": link.receive_errors,
            "txBytes": link.sent_bytes, "txErrors": link.send_errors,
        })
    };
    let Some(first_link) = links.first() else {
        return Value::Null;
    };
    let mut summary = link_summary(first_link);
    summary["time"] = json!(time);
    summary["interfaces"] = links.iter().map(link_summary).collect();
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings C8
    #[test]
    fn counters_of_links_are_read() {
        let text = "Inter-|   Receive                    |  Transmit\n \
            face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop\n    \
            lo:  10 1 0 0 0 0 0 0  10 1 0 0 0 0 0 0\n  \
            eth0: 1500 12 3 4 0 0 0 0 700 9 1 2 0 0 0 0\nbroken: 1 2\n";
        let links = parse(text);
        let expected = Interface {
            name: "eth0".to_owned(),
            received_bytes: 1500,
            received_packets: 12,
            receive_errors: 3,
            receive_drops: 4,
            sent_bytes: 700,
            sent_packets: 9,
            send_errors: 1,
            send_drops: 2,
        };
        assert_eq!(links, [expected]);
        let summary_of_links = summary(&links, "now");
        assert_eq!(
            (
                &summary_of_links["rxBytes"],
                &summary_of_links["interfaces"][0]["txErrors"]
            ),
            (&json!(1500), &json!(1))
        );
        assert_eq!(summary(&[], "now"), Value::Null);
    }
}
