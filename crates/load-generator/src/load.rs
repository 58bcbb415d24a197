//! Concurrent clients, each of which sends one request after the other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::Client;
use tokio::task::JoinSet;

use crate::call::Call;

/// The result of a load.
#[derive(Debug, Default)]
pub struct Load {
    pub latencies: Vec<Duration>,
    /// From the first sent request to the last response.
    pub elapsed: Duration,
    pub bytes: u64,
    pub failures: u64,
    pub first_failure: Option<String>,
}

impl Load {
    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.bytes += other.bytes;
        self.failures += other.failures;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }
}

/// Sends each call once, distributed among the clients.
pub async fn send_all(clients: &[Client], calls: Vec<Call>) -> Result<Load> {
    let shares = share_out(calls, clients.len());
    let started = Instant::now();
    let mut running = JoinSet::new();
    for (client, share) in clients.iter().zip(shares) {
        running.spawn(send_in_order(client.clone(), share));
    }
    let mut total = Load::default();
    while let Some(ended) = running.join_next().await {
        total.add(ended.context("a client of the load broke")?);
    }
    total.elapsed = started.elapsed();
    Ok(total)
}

async fn send_in_order(client: Client, calls: Vec<Call>) -> Load {
    let mut load = Load::default();
    load.latencies.reserve(calls.len());
    for call in calls {
        match call.send(&client).await {
            Ok(reply) => {
                load.latencies.push(reply.latency);
                load.bytes += reply.bytes;
            }
            Err(error) => {
                load.failures += 1;
                load.first_failure.get_or_insert(format!("{error:#}"));
            }
        }
    }
    load
}

/// Distributes the calls round-robin: adjacent calls go to different clients.
fn share_out<T>(all: Vec<T>, among: usize) -> Vec<Vec<T>> {
    let mut shares: Vec<Vec<T>> = Vec::new();
    shares.resize_with(among, Vec::new);
    for (index, one) in all.into_iter().enumerate() {
        if let Some(share) = shares.get_mut(index % among) {
            share.push(one);
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_as_much_as_the_others() {
        let shares = share_out((0..10).collect(), 4);
        assert_eq!(
            shares,
            [vec![0, 4, 8], vec![1, 5, 9], vec![2, 6], vec![3, 7]]
        );
        assert_eq!(share_out(vec![1], 2), [vec![1], vec![]]);
    }

    #[test]
    fn the_first_failure_is_remembered() {
        let failed = |text: &str| Load {
            failures: 1,
            first_failure: Some(text.to_owned()),
            ..Load::default()
        };
        let mut total = Load::default();
        total.add(failed("one"));
        total.add(failed("two"));
        assert_eq!(total.failures, 2);
        assert_eq!(total.first_failure.as_deref(), Some("one"));
    }
}
