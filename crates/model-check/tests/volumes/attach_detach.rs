//! Every interleaving of the attach-detach controller with two nodes that use one volume: pods that are deleted by
//! force, Node objects that are deleted and registered again, leases that are fenced, old caches, leaders that change,
//! and writes that arrive late: writes of former leaders, and writes without a response.
//!
//! A volume is never detached from a node where the pod still runs, and never mounted on two nodes. Each guard is
//! needed: without it a violation is detected.

use std::collections::{BTreeSet, VecDeque};

use controller_planners::attach_detach::*;

const NODES: [usize; 2] = [0, 1];

/// The guards against a violation; a test removes one guard at a time.
#[derive(Clone, Copy, Debug)]
struct Guards {
    /// The detachment from a deleted Node needs a proof.
    proof: bool,
    /// A detachment is decided with the Node from the API server, not from the cache.
    fresh_node: bool,
    /// An attachment is deleted only in the observed version.
    version: bool,
    /// An attachment of a former leader is claimed before its use.
    claim: bool,
    /// A Node of a former leader is written before a volume is detached from it.
    claim_node: bool,
    /// A new Node object names the volumes in use from its first version.
    first_status: bool,
}

const ALL: Guards = Guards {
    proof: true,
    fresh_node: true,
    version: true,
    claim: true,
    claim_node: true,
    first_status: true,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ApiNode {
    version: u8,
    in_use: bool,
    attached: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ApiAttachment {
    uid: u8,
    version: u8,
    is_attached: bool,
}

/// An agent, and its running pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Machine {
    /// The agent has observed a pod, and not its deletion yet.
    pod: bool,
    /// The agent has read that the volume is in use and attached.
    ready: bool,
    mounted: bool,
    /// The lease has lapsed, so the pods of the node have ended.
    lapsed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Write {
    SetAttached { precondition: u8, attached: bool },
    ClaimNode { precondition: u8 },
    Attach,
    Claim { uid: u8, version: u8 },
    Detach { uid: u8, version: u8 },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    nodes: [Option<ApiNode>; 2],
    attachments: [Option<ApiAttachment>; 2],
    pods: [bool; 2],
    fenced: [bool; 2],
    machines: [Machine; 2],
    /// The leader's cache of the Nodes.
    cached: [Option<ApiNode>; 2],
    /// The attachments that the leader has created or claimed.
    claimed: BTreeSet<u8>,
    /// The Nodes that the leader has written.
    claimed_nodes: [bool; 2],
    /// The leader's pending write.
    pending: Option<(usize, Write)>,
    /// A write of a former leader, or a write without a response.
    late: Option<(usize, Write)>,
    revision: u8,
    pods_left: u8,
    leaders_left: u8,
    deletions_left: u8,
    lapses_left: u8,
    lost_left: u8,
    has_losses: bool,
}

impl World {
    fn new(leaders: u8, losses: u8) -> Self {
        let node = |version| {
            Some(ApiNode {
                version,
                in_use: false,
                attached: false,
            })
        };
        let nodes = [node(1), node(2)];
        Self {
            nodes,
            attachments: [None; 2],
            pods: [false; 2],
            fenced: [false; 2],
            machines: [Machine::default(); 2],
            cached: nodes,
            claimed: BTreeSet::new(),
            claimed_nodes: [false; 2],
            pending: None,
            late: None,
            revision: 2,
            pods_left: 2,
            leaders_left: leaders,
            deletions_left: losses,
            lapses_left: losses,
            lost_left: leaders,
            has_losses: losses > 0,
        }
    }

    fn next_revision(&mut self) -> u8 {
        self.revision += 1;
        self.revision
    }

    /// Versions are compared only for equality, so they are renumbered.
    fn normalized(mut self) -> Self {
        let mut versions = BTreeSet::new();
        self.visit_versions(|version| {
            versions.insert(*version);
        });
        let order: Vec<u8> = versions.into_iter().collect();
        let rank = |version: u8| order.binary_search(&version).map_or(0, |at| at as u8 + 1);
        self.visit_versions(|version| *version = rank(*version));
        self.claimed = self.claimed.iter().map(|uid| rank(*uid)).collect();
        self.claimed.remove(&0);
        self.revision = order.len() as u8;
        self
    }

    fn visit_versions(&mut self, mut visit: impl FnMut(&mut u8)) {
        for node in self.nodes.iter_mut().chain(&mut self.cached).flatten() {
            visit(&mut node.version);
        }
        for attachment in self.attachments.iter_mut().flatten() {
            visit(&mut attachment.uid);
            visit(&mut attachment.version);
        }
        for (_, write) in self.pending.iter_mut().chain(&mut self.late) {
            match write {
                Write::SetAttached {
                    precondition: observed,
                    ..
                }
                | Write::ClaimNode {
                    precondition: observed,
                } => visit(observed),
                Write::Attach => {}
                Write::Claim { uid, version } | Write::Detach { uid, version } => {
                    visit(uid);
                    visit(version);
                }
            }
        }
    }

    fn observed_node(&self, at: usize, node: Option<ApiNode>, guards: Guards) -> ObservedNode {
        let volume = Volume {
            volume: "pv".to_owned(),
            unique_name: NAME.to_owned(),
            driver: "d".to_owned(),
            is_exclusive: true,
        };
        let names = |has: bool| has.then(|| NAME.to_owned()).into_iter().collect();
        let attachments = self.attachments[at].iter().map(|attachment| Attachment {
            name: "csi".to_owned(),
            uid: attachment.uid.to_string().parse().unwrap(),
            version: attachment.version.to_string().parse().unwrap(),
            is_claimed: self.claimed.contains(&attachment.uid) || !guards.claim,
            node: at.to_string(),
            volume: "pv".to_owned(),
            unique_name: Some(NAME.to_owned()),
            is_attached: attachment.is_attached,
            error: None,
            is_deleting: false,
        });
        let other_node = self.attachments[1 - at].map(|_| (1 - at).to_string());
        let has_proof = self.fenced[at] || (node.is_none() && !guards.proof);
        ObservedNode {
            name: at.to_string(),
            node: node.map(|node| Node {
                in_use: names(node.in_use),
                attached: names(node.attached),
                is_claimed: self.claimed_nodes[at] || !guards.claim_node,
            }),
            desired: self.pods[at]
                .then(|| ("csi".to_owned(), volume))
                .into_iter()
                .collect(),
            attachments: attachments.collect(),
            elsewhere: [("pv".to_owned(), other_node.into_iter().collect())].into(),
            proof: has_proof.then_some(DetachProof::Fenced),
        }
    }

    /// The leader's next write for a node.
    fn decide(&self, at: usize, guards: Guards) -> Option<Write> {
        let mut node = self.cached[at];
        let mut actions = plan(&self.observed_node(at, node, guards));
        let detaches =
            |action: &AttachDetachAction| matches!(action, AttachDetachAction::Detach { .. });
        if guards.fresh_node && actions.iter().any(detaches) {
            node = self.nodes[at];
            actions = plan(&self.observed_node(at, node, guards));
        }
        let number = |text: &str| text.parse().unwrap();
        match actions.first()? {
            AttachDetachAction::SetAttached(names) => Some(Write::SetAttached {
                precondition: node?.version,
                attached: !names.is_empty(),
            }),
            AttachDetachAction::ClaimNode => Some(Write::ClaimNode {
                precondition: node?.version,
            }),
            AttachDetachAction::Attach { .. } => Some(Write::Attach),
            AttachDetachAction::Claim { uid, version, .. } => Some(Write::Claim {
                uid: number(uid.as_str()),
                version: number(&version.to_string()),
            }),
            AttachDetachAction::Detach { uid, version, .. } => Some(Write::Detach {
                uid: number(uid.as_str()),
                version: number(&version.to_string()),
            }),
            AttachDetachAction::Refuse { .. } | AttachDetachAction::Failed { .. } => None,
        }
    }

    /// The write arrives. `is_awaited`: the leader still waits for the response.
    fn arrive(&mut self, at: usize, write: Write, is_awaited: bool, guards: Guards) {
        match write {
            Write::SetAttached {
                precondition: observed,
                attached,
            } => {
                let revision = self.next_revision();
                if let Some(node) = self.nodes[at]
                    .as_mut()
                    .filter(|node| node.version == observed)
                {
                    (node.attached, node.version) = (attached, revision);
                    self.claimed_nodes[at] |= is_awaited;
                }
            }
            Write::ClaimNode {
                precondition: observed,
            } => {
                let revision = self.next_revision();
                if let Some(node) = self.nodes[at]
                    .as_mut()
                    .filter(|node| node.version == observed)
                {
                    node.version = revision;
                    self.claimed_nodes[at] |= is_awaited;
                }
            }
            Write::Attach => {
                let is_free = self.attachments == [None, None];
                if is_free {
                    let uid = self.next_revision();
                    self.attachments[at] = Some(ApiAttachment {
                        uid,
                        version: uid,
                        is_attached: false,
                    });
                    if is_awaited {
                        self.claimed.insert(uid);
                    }
                }
            }
            Write::Claim { uid, version } => {
                let revision = self.next_revision();
                let attachment = self.attachments[at].as_mut();
                let is_current = |attachment: &&mut ApiAttachment| {
                    (attachment.uid, attachment.version) == (uid, version)
                };
                if let Some(attachment) = attachment.filter(is_current) {
                    attachment.version = revision;
                    if is_awaited {
                        self.claimed.insert(uid);
                    }
                }
            }
            Write::Detach { uid, version } => {
                let is_requested = |attachment: ApiAttachment| {
                    attachment.uid == uid && (attachment.version == version || !guards.version)
                };
                if self.attachments[at].is_some_and(is_requested) {
                    self.attachments[at] = None;
                }
            }
        }
    }

    fn add_leader_steps(&self, guards: Guards, next_worlds: &mut Vec<Self>) {
        let mut add = |change: &dyn Fn(&mut Self)| {
            let mut next = self.clone();
            change(&mut next);
            next_worlds.push(next);
        };
        if let Some((at, write)) = self.late {
            add(&|next| {
                next.late = None;
                next.arrive(at, write, false, guards);
            });
        }
        if self.leaders_left > 0 && self.late.is_none() {
            add(&|next| {
                next.leaders_left -= 1;
                next.late = next.pending.take();
                next.claimed.clear();
                next.claimed_nodes = [false; 2];
                next.cached = next.nodes;
            });
        }
        match self.pending {
            Some((at, write)) => {
                add(&|next| {
                    next.pending = None;
                    next.arrive(at, write, true, guards);
                });
                if self.lost_left > 0 && self.late.is_none() {
                    add(&|next| {
                        next.lost_left -= 1;
                        next.late = next.pending.take();
                    });
                }
            }
            None => {
                for at in NODES {
                    if let Some(write) = self.decide(at, guards) {
                        add(&|next| {
                            match write {
                                Write::Detach { uid, .. } => {
                                    next.claimed.remove(&uid);
                                }
                                Write::SetAttached { .. } | Write::ClaimNode { .. } => {
                                    next.claimed_nodes[at] = false;
                                }
                                Write::Attach | Write::Claim { .. } => {}
                            }
                            next.pending = Some((at, write));
                        });
                    }
                }
            }
        }
        for at in NODES
            .into_iter()
            .filter(|at| self.cached[*at] != self.nodes[*at])
        {
            add(&|next| next.cached[at] = next.nodes[at]);
        }
    }

    fn add_node_steps(&self, at: usize, guards: Guards, next_worlds: &mut Vec<Self>) {
        let (machine, node) = (self.machines[at], self.nodes[at]);
        let mut when = |holds: bool, change: &dyn Fn(&mut Self)| {
            if holds {
                let mut next = self.clone();
                change(&mut next);
                next_worlds.push(next);
            }
        };
        let has_no_pod = self.pods == [false, false];
        // The second node matters only if the first node is lost.
        let is_schedulable = at == 0 || self.has_losses;
        let is_bound = is_schedulable && has_no_pod && self.pods_left > 0 && node.is_some();
        when(is_bound, &|next| {
            next.pods_left -= 1;
            next.pods[at] = true;
        });
        // The pod is deleted by force, so it may still run.
        when(self.pods[at], &|next| next.pods[at] = false);
        let observes_pod = self.pods[at] && !machine.pod && !machine.lapsed;
        when(observes_pod, &|next| next.machines[at].pod = true);
        when(machine.pod && !self.pods[at], &|next| {
            next.machines[at] = Machine::default();
        });
        let in_use = machine.pod || machine.mounted;
        let is_reported = !machine.lapsed && node.is_some_and(|node| node.in_use != in_use);
        when(is_reported, &|next| {
            let revision = next.next_revision();
            if let Some(node) = &mut next.nodes[at] {
                (node.in_use, node.version) = (in_use, revision);
            }
        });
        let is_attached = node.is_some_and(|node| node.in_use && node.attached);
        let reads_status = machine.pod && !machine.mounted && !machine.ready && is_attached;
        when(reads_status, &|next| next.machines[at].ready = true);
        when(machine.ready, &|next| {
            let attachment = next.attachments[at];
            next.machines[at].ready = false;
            next.machines[at].mounted = attachment.is_some_and(|attachment| attachment.is_attached);
        });
        // Only the pods of the second node matter.
        let is_first = at == 0;
        when(
            is_first && node.is_some() && self.deletions_left > 0,
            &|next| {
                next.deletions_left -= 1;
                next.nodes[at] = None;
                next.claimed_nodes[at] = false;
            },
        );
        when(node.is_none() && !machine.lapsed, &|next| {
            let version = next.next_revision();
            next.nodes[at] = Some(ApiNode {
                version,
                in_use: in_use && guards.first_status,
                attached: false,
            });
        });
        when(
            is_first && !machine.lapsed && self.lapses_left > 0,
            &|next| {
                next.lapses_left -= 1;
                next.machines[at] = Machine {
                    lapsed: true,
                    ..Machine::default()
                };
            },
        );
        when(machine.lapsed && !self.fenced[at], &|next| {
            next.fenced[at] = true;
        });
        when(machine.lapsed, &|next| {
            next.fenced[at] = false;
            next.machines[at].lapsed = false;
        });
        let attaches = self.attachments[at].is_some_and(|attachment| !attachment.is_attached);
        when(attaches, &|next| {
            let version = next.next_revision();
            if let Some(attachment) = &mut next.attachments[at] {
                (attachment.is_attached, attachment.version) = (true, version);
            }
        });
    }

    fn violation(&self) -> Option<&'static str> {
        let is_detached = |at: &usize| {
            let attached = self.attachments[*at].is_some_and(|attachment| attachment.is_attached);
            self.machines[*at].mounted && !attached
        };
        if NODES.iter().any(is_detached) {
            return Some("detached under a running pod");
        }
        let on_both_nodes = NODES.iter().all(|at| self.machines[*at].mounted);
        on_both_nodes.then_some("mounted on two nodes")
    }
}

const NAME: &str = "kubernetes.io/csi/d^h";

/// The first violation, and the number of states, for a number of leader changes and node losses.
fn search(leaders: u8, losses: u8, guards: Guards) -> (Option<(&'static str, World)>, usize) {
    let start = World::new(leaders, losses).normalized();
    let mut visited = BTreeSet::from([start.clone()]);
    let mut frontier = VecDeque::from([start]);
    let mut next = Vec::new();
    while let Some(world) = frontier.pop_front() {
        if let Some(violation) = world.violation() {
            return (Some((violation, world)), visited.len());
        }
        world.add_leader_steps(guards, &mut next);
        for at in NODES {
            world.add_node_steps(at, guards, &mut next);
        }
        for world in next.drain(..).map(World::normalized) {
            if visited.insert(world.clone()) {
                frontier.push_back(world);
            }
        }
    }
    (None, visited.len())
}

#[test]
fn no_interleaving_detaches_a_volume_under_a_running_pod() {
    for (leaders, losses) in [(1, 0), (0, 1)] {
        let (violation, states) = search(leaders, losses, ALL);
        assert_eq!(violation, None);
        assert!(states > 10_000, "{states}");
    }
}

#[test]
fn each_guard_is_needed() {
    let is_violated = |leaders, losses, guards| search(leaders, losses, guards).0.is_some();
    assert!(is_violated(
        0,
        1,
        Guards {
            proof: false,
            ..ALL
        }
    ));
    assert!(is_violated(
        0,
        1,
        Guards {
            first_status: false,
            ..ALL
        }
    ));
    assert!(is_violated(
        0,
        0,
        Guards {
            fresh_node: false,
            ..ALL
        }
    ));
    assert!(is_violated(
        1,
        0,
        Guards {
            version: false,
            ..ALL
        }
    ));
    assert!(is_violated(
        1,
        0,
        Guards {
            claim: false,
            ..ALL
        }
    ));
    assert!(is_violated(
        1,
        0,
        Guards {
            claim_node: false,
            ..ALL
        }
    ));
}
