//! Counts of refusals at the limits in `docs/contributing/budgets.md`.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::prometheus::{Metric, Page};

const REFUSALS: Metric = Metric::counter(
    "mainstay_refusals_total",
    "What was refused, closed, dropped or made to wait because its sender was over a bound.",
);

/// A limit whose refusals are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Connections to the API server.
    ApiConnections,
    /// Connections to the kubelet API of a node.
    KubeletConnections,
    /// Connections to the DNS server.
    DnsConnections,
    /// Queries that wait for another DNS server.
    DnsQuestions,
    /// Connections to the health check of a Service.
    HealthCheckConnections,
    /// Watches and streams of a user.
    LongRunningRequests,
    /// Bytes of the request bodies of a user.
    RequestBodies,
    /// Sessions in the containers of a pod.
    PodSessions,
    /// Tunnels of a node.
    Tunnels,
    /// Connections to a node on another machine.
    NodeConnections,
    /// Cached responses of other DNS servers.
    DnsAnswers,
    /// ConfigMaps and Secrets that the node watches for a pod.
    WatchedObjects,
    /// Events of an object, and waiting events.
    Events,
    /// Concurrent pulls of images.
    ImagePulls,
    /// Choices of a node for a claim that the provisioner of the claim has rejected.
    NodeChoices,
    /// Requests to extension API servers.
    ExtensionRequests,
}

/// All limits, in the order of their counters.
pub const BUDGETS: [Budget; 16] = [
    Budget::ApiConnections,
    Budget::KubeletConnections,
    Budget::DnsConnections,
    Budget::DnsQuestions,
    Budget::HealthCheckConnections,
    Budget::LongRunningRequests,
    Budget::RequestBodies,
    Budget::PodSessions,
    Budget::Tunnels,
    Budget::NodeConnections,
    Budget::DnsAnswers,
    Budget::WatchedObjects,
    Budget::Events,
    Budget::ImagePulls,
    Budget::NodeChoices,
    Budget::ExtensionRequests,
];

static COUNTS: [AtomicU64; BUDGETS.len()] = [const { AtomicU64::new(0) }; BUDGETS.len()];

impl Budget {
    /// The value of the metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::ApiConnections => "api_connections",
            Self::KubeletConnections => "kubelet_connections",
            Self::DnsConnections => "dns_connections",
            Self::DnsQuestions => "dns_questions",
            Self::HealthCheckConnections => "health_check_connections",
            Self::LongRunningRequests => "long_running_requests",
            Self::RequestBodies => "request_bodies",
            Self::PodSessions => "pod_sessions",
            Self::Tunnels => "tunnels",
            Self::NodeConnections => "node_connections",
            Self::DnsAnswers => "dns_answers",
            Self::WatchedObjects => "watched_objects",
            Self::Events => "events",
            Self::ImagePulls => "image_pulls",
            Self::NodeChoices => "node_choices",
            Self::ExtensionRequests => "extension_requests",
        }
    }
}

/// Counts a refusal.
pub fn count(budget: Budget) {
    COUNTS[budget as usize].fetch_add(1, Ordering::Relaxed);
}

/// The number of refusals at a limit since the start of the process.
pub fn counted(budget: Budget) -> u64 {
    COUNTS[budget as usize].load(Ordering::Relaxed)
}

/// Adds the counts of the process to a page.
pub fn write(page: &mut Page) {
    for budget in BUDGETS {
        page.add(REFUSALS, &[("budget", budget.name())], counted(budget));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_has_its_own_count() {
        for (index, budget) in BUDGETS.into_iter().enumerate() {
            assert_eq!(budget as usize, index);
        }
        count(Budget::PodSessions);
        let mut page = Page::default();
        write(&mut page);
        let text = page.text();
        assert!(
            text.contains("mainstay_refusals_total{budget=\"pod_sessions\"} 1\n"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 2 + BUDGETS.len());
    }
}
