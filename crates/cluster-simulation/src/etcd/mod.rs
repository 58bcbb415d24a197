//! A simulated etcd cluster of three members, to which the engine over etcd speaks gRPC.
//!
//! [`keys`] is the state that the members agree on. Each member has the state up to a revision, and is behind the other
//! members for a while; [`member`] responds to clients with the state up to that revision. A leader executes writes,
//! one after the other. Faults: members are slow, disconnected from the other members and killed, and the leader
//! changes. A pending write is then lost, or executed later, and in both cases its client gets no response.

mod keys;
mod member;
mod messages;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mvcc_store::WatchEvents;
use rpc_channel::Code;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::random::{below, chance, millis};
use crate::trace;
use keys::{Keys, Refusal};
pub use member::StoreLink;

/// The number of members.
pub const MEMBERS: usize = 3;

/// Maximum latency between two members without a fault, in milliseconds.
const HEALTHY_MILLIS: u64 = 5;
/// The time of an election, in milliseconds.
const ELECTION_MILLIS: (u64, u64) = (300, 2_500);
/// Timeout of a request in a member, as etcd with its default options.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);
/// The time between two checks of the state of the cluster.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The time between two checks of the leases.
const LEASE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

type Observe = dyn FnMut(&WatchEvents) + Send;

pub struct Cluster {
    keys: Mutex<Keys>,
    /// Gets every change when it is executed.
    observe: Mutex<Box<Observe>>,
    newest: watch::Sender<u64>,
    rule: Mutex<Rule>,
    members: [Member; MEMBERS],
}

/// The leader, and the members that the leader reaches.
#[derive(Clone, Copy, Debug, Default)]
struct Rule {
    leader: Option<usize>,
    /// Incremented by each election.
    term: u64,
    is_cut: [bool; MEMBERS],
    is_down: [bool; MEMBERS],
}

impl Rule {
    fn reaches(&self, member: usize) -> bool {
        !self.is_cut[member] && !self.is_down[member]
    }
}

struct Member {
    /// The newest revision that the member has.
    newest_revision: watch::Sender<u64>,
    /// Maximum time until the member receives the writes of other members, in milliseconds.
    behind_millis: Mutex<u64>,
    /// Cancelled when the member is killed.
    killed: Mutex<CancellationToken>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// An empty cluster. `observe` gets every change below the prefix of the engine.
    pub fn start(observe: impl FnMut(&WatchEvents) + Send + 'static) -> Arc<Self> {
        let cluster = Arc::new(Self {
            keys: Mutex::new(Keys::new()),
            observe: Mutex::new(Box::new(observe)),
            newest: watch::Sender::new(1),
            rule: Mutex::new(Rule {
                leader: Some(0),
                ..Rule::default()
            }),
            members: std::array::from_fn(|_| Member {
                newest_revision: watch::Sender::new(1),
                behind_millis: Mutex::new(HEALTHY_MILLIS),
                killed: Mutex::default(),
            }),
        });
        for member in 0..MEMBERS {
            tokio::spawn(cluster.clone().follow(member));
        }
        tokio::spawn(cluster.clone().end_leases());
        cluster
    }

    /// The members' addresses for the engine.
    pub fn endpoints() -> [String; MEMBERS] {
        std::array::from_fn(|number| format!("http://member-{number}:2379"))
    }

    fn rule(&self) -> Rule {
        *lock(&self.rule)
    }

    /// Updates the newest revision of a member.
    async fn follow(self: Arc<Self>, member: usize) {
        let mut newest = self.newest.subscribe();
        let member_revision = &self.members[member].newest_revision;
        loop {
            let behind = *member_revision.borrow();
            if newest.wait_for(|newest| *newest > behind).await.is_err() {
                return;
            }
            let slowest = *lock(&self.members[member].behind_millis);
            sleep(millis(0, slowest)).await;
            while !self.rule().reaches(member) || self.rule().leader.is_none() {
                sleep(POLL_INTERVAL).await;
            }
            member_revision.send_replace(*newest.borrow());
        }
    }

    async fn end_leases(self: Arc<Self>) {
        loop {
            sleep(LEASE_CHECK_INTERVAL).await;
            if self.rule().leader.is_none() {
                continue;
            }
            let expired = lock(&self.keys).expired(Instant::now());
            for lease in expired {
                // A client may have revoked the lease already.
                let _revoked = self.change(|keys| keys.revoke(lease));
            }
        }
    }

    /// Executes a change.
    fn change<T>(&self, change: impl FnOnce(&mut Keys) -> T) -> (T, u64) {
        let mut keys = lock(&self.keys);
        let before = keys.revision;
        let result = change(&mut keys);
        let revision = keys.revision;
        if revision > before {
            if let Some(events) = member::store_events(keys.since(before)) {
                (lock(&self.observe))(&events);
            }
            self.newest.send_replace(revision);
        }
        (result, revision)
    }

    /// Executes a write for a client of a member.
    async fn propose(
        &self,
        member: usize,
        write: impl FnOnce(&mut Keys) -> Result<Vec<u8>, Refusal>,
    ) -> Result<Vec<u8>, Refusal> {
        let before = self.rule();
        self.require_leader(member).await?;
        sleep(millis(0, HEALTHY_MILLIS)).await;
        let now = self.rule();
        let is_late = now.term != before.term || now.leader.is_none() || !now.reaches(member);
        if is_late && chance(50) {
            trace!("member {member} of etcd loses a write");
            sleep(REQUEST_TIMEOUT).await;
            return Err(timed_out());
        }
        while is_late && self.rule().leader.is_none() {
            sleep(POLL_INTERVAL).await;
        }
        let (result, revision) = self.change(write);
        if is_late {
            trace!("a late write of member {member} of etcd is carried out at {revision}");
            sleep(REQUEST_TIMEOUT).await;
            return Err(timed_out());
        }
        self.wait_for_revision(member, revision).await?;
        result
    }

    /// Waits until a member has all executed writes, for a consistent read.
    async fn read_index(&self, member: usize) -> Result<u64, Refusal> {
        self.require_leader(member).await?;
        let newest = *self.newest.borrow();
        sleep(millis(0, HEALTHY_MILLIS)).await;
        // A replaced leader gets no confirmation that it still leads.
        self.require_leader(member).await?;
        self.wait_for_revision(member, newest).await?;
        Ok(*self.members[member].newest_revision.borrow())
    }

    /// Fails if a member does not reach the leader; the member detects this after a while.
    async fn require_leader(&self, member: usize) -> Result<(), Refusal> {
        let rule = self.rule();
        if rule.leader.is_some() && rule.reaches(member) {
            return Ok(());
        }
        if chance(50) {
            sleep(REQUEST_TIMEOUT).await;
            return Err(timed_out());
        }
        Err(no_leader())
    }

    async fn wait_for_revision(&self, member: usize, revision: u64) -> Result<(), Refusal> {
        let mut member_revision = self.members[member].newest_revision.subscribe();
        let arrival = member_revision.wait_for(|member_revision| *member_revision >= revision);
        match tokio::time::timeout(REQUEST_TIMEOUT, arrival).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(timed_out()),
        }
    }

    /// Elects a leader, if a majority of the members is connected.
    async fn elect(&self) {
        {
            let mut rule = lock(&self.rule);
            rule.leader = None;
            rule.term += 1;
        }
        let (from, to) = ELECTION_MILLIS;
        sleep(millis(from, to)).await;
        let mut rule = lock(&self.rule);
        let reachable: Vec<usize> = (0..MEMBERS)
            .filter(|member| rule.reaches(*member))
            .collect();
        if reachable.len() > MEMBERS / 2 && rule.leader.is_none() {
            let leader = reachable[below(reachable.len() as u64) as usize];
            rule.leader = Some(leader);
            trace!("member {leader} of etcd leads");
        }
    }

    /// Another member leads after a while.
    pub async fn change_leader(&self) {
        trace!("etcd changes its leader");
        self.elect().await;
    }

    /// Disconnects a member from the other members for a while.
    pub async fn split(&self, member: usize, time: Duration) {
        trace!("member {member} of etcd is cut off from the others");
        lock(&self.rule).is_cut[member] = true;
        self.lose(member).await;
        sleep(time).await;
        lock(&self.rule).is_cut[member] = false;
        self.regain().await;
    }

    /// Kills a member, and starts it again after a while.
    pub async fn kill(&self, member: usize, time: Duration) {
        trace!("member {member} of etcd is killed");
        lock(&self.rule).is_down[member] = true;
        lock(&self.members[member].killed).cancel();
        self.lose(member).await;
        sleep(time).await;
        *lock(&self.members[member].killed) = CancellationToken::new();
        lock(&self.rule).is_down[member] = false;
        self.regain().await;
    }

    async fn lose(&self, member: usize) {
        let rule = self.rule();
        let reachable = (0..MEMBERS).filter(|member| rule.reaches(*member)).count();
        if rule.leader == Some(member) || reachable <= MEMBERS / 2 {
            self.elect().await;
        }
    }

    async fn regain(&self) {
        if self.rule().leader.is_none() {
            self.elect().await;
        }
    }

    /// Delays the updates of a member for a while.
    pub async fn slow_down(&self, member: usize, slowest: Duration, time: Duration) {
        trace!("member {member} of etcd is behind by up to {slowest:?}");
        let slowest = u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX);
        *lock(&self.members[member].behind_millis) = slowest;
        sleep(time).await;
        *lock(&self.members[member].behind_millis) = HEALTHY_MILLIS;
    }

    /// Removes the whole history.
    pub fn compact(&self) {
        let (_, revision) = self.change(|keys| keys.compact(keys.revision).map(drop));
        trace!("etcd is compacted to {revision}");
    }
}

fn timed_out() -> Refusal {
    Refusal::new(Code::UNAVAILABLE, "etcdserver: request timed out")
}

fn no_leader() -> Refusal {
    Refusal::new(Code::UNAVAILABLE, "etcdserver: no leader")
}
