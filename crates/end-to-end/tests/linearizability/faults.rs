//! Faults of servers, of members of etcd, and of the links between them. A majority of the members always runs and is
//! connected.

use end_to_end::lan::{cut, mend};
use end_to_end::servers::ServersOnEtcd;
use nix::sys::signal::Signal;

use super::history::Random;

/// A kind of fault. Members and servers that the fault does not name are chosen at random.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    MemberKilled,
    /// The paused member may be the leader, and still believes this when it continues.
    MemberPaused,
    LeaderKilled,
    LeaderPaused,
    ServerKilled,
    /// The server with this number; one of the servers leads.
    ServerPaused(usize),
    /// The server reaches no member, but clients reach the server.
    ServerWithoutMembers,
    /// The server reaches only one member, which is disconnected from the other members.
    ServerWithMinority,
    ServerUnplugged,
    LeaderUnplugged,
    /// The leader reaches no other member; servers reach all members.
    LeaderWithoutMembers,
    /// The leader receives packets of another member, but its own packets do not arrive there.
    LeaderUnheard,
}

/// All faults, in an order in which each server and the members recover in between.
pub const ALL: [Fault; 14] = [
    Fault::MemberKilled,
    Fault::ServerPaused(0),
    Fault::LeaderWithoutMembers,
    Fault::MemberPaused,
    Fault::ServerWithoutMembers,
    Fault::ServerPaused(1),
    Fault::LeaderPaused,
    Fault::ServerWithMinority,
    Fault::LeaderUnheard,
    Fault::ServerKilled,
    Fault::LeaderKilled,
    Fault::ServerPaused(2),
    Fault::LeaderUnplugged,
    Fault::ServerUnplugged,
];

const MEMBERS: usize = 3;

/// A fault that continues until its repair.
#[derive(Debug)]
pub enum Struck {
    MemberKilled(usize),
    MemberPaused(usize),
    ServerKilled(usize),
    ServerPaused(usize),
    ServerUnplugged(usize),
    MemberUnplugged(usize),
    /// Cut links: of servers to members, among members, and directions that are lost from one member to another.
    Cut {
        servers: Vec<(usize, usize)>,
        members: Vec<(usize, usize)>,
        directions: Vec<(usize, usize)>,
    },
}

/// The members other than this member.
fn others(member: usize) -> impl Iterator<Item = usize> {
    (0..MEMBERS).filter(move |other| *other != member)
}

impl Fault {
    /// Injects the fault.
    pub fn strike(self, machines: &mut ServersOnEtcd, random: &mut Random) -> Struck {
        let server = random.place(machines.servers.len());
        let member = random.place(MEMBERS);
        let to_others = |member: usize| others(member).map(|other| (member, other)).collect();
        let (mut servers, mut members, mut directions) = (Vec::new(), Vec::new(), Vec::new());
        let struck = match self {
            Self::MemberKilled => Struck::MemberKilled(member),
            Self::LeaderKilled => Struck::MemberKilled(machines.etcd.leader()),
            Self::MemberPaused => Struck::MemberPaused(member),
            Self::LeaderPaused => Struck::MemberPaused(machines.etcd.leader()),
            Self::ServerKilled => Struck::ServerKilled(server),
            Self::ServerPaused(server) => Struck::ServerPaused(server),
            Self::ServerUnplugged => Struck::ServerUnplugged(server),
            Self::LeaderUnplugged => Struck::MemberUnplugged(machines.etcd.leader()),
            Self::ServerWithoutMembers | Self::ServerWithMinority => {
                if let Self::ServerWithMinority = self {
                    // The member to which the server connects first.
                    members = to_others(server % MEMBERS);
                    servers = others(server % MEMBERS)
                        .map(|other| (server, other))
                        .collect();
                } else {
                    servers = (0..MEMBERS).map(|member| (server, member)).collect();
                }
                Struck::Cut {
                    servers,
                    members,
                    directions,
                }
            }
            Self::LeaderWithoutMembers => {
                members = to_others(machines.etcd.leader());
                Struck::Cut {
                    servers,
                    members,
                    directions,
                }
            }
            Self::LeaderUnheard => {
                let leader = machines.etcd.leader();
                directions = others(leader)
                    .take(1)
                    .map(|other| (leader, other))
                    .collect();
                Struck::Cut {
                    servers,
                    members,
                    directions,
                }
            }
        };
        struck.begin(machines);
        struck
    }
}

impl Struck {
    fn begin(&self, machines: &mut ServersOnEtcd) {
        match self {
            Self::MemberKilled(member) => machines.etcd.kill(*member),
            Self::MemberPaused(member) => machines.etcd.pause(*member),
            Self::ServerKilled(server) => machines.servers[*server].kill(),
            Self::ServerPaused(server) => machines.servers[*server].signal(Signal::SIGSTOP),
            Self::ServerUnplugged(server) => {
                let machine = machines.servers[*server].machine();
                machines.lan.set_cable(machine, "down");
            }
            Self::MemberUnplugged(member) => {
                machines
                    .lan
                    .set_cable(machines.etcd.machine(*member), "down");
            }
            Self::Cut {
                servers,
                members,
                directions,
            } => {
                let etcd = &machines.etcd;
                for (server, member) in servers {
                    cut(machines.servers[*server].machine(), etcd.machine(*member));
                }
                for (one, other) in members {
                    cut(etcd.machine(*one), etcd.machine(*other));
                }
                for (from, to) in directions {
                    etcd.machine(*from).lose(etcd.machine(*to));
                }
            }
        }
    }

    /// Repairs the fault.
    pub fn repair(self, machines: &mut ServersOnEtcd) {
        match self {
            Self::MemberKilled(member) => machines.etcd.start_again(member),
            Self::MemberPaused(member) => machines.etcd.resume(member),
            Self::ServerKilled(server) => machines.start_as_member(server),
            Self::ServerPaused(server) => machines.servers[server].signal(Signal::SIGCONT),
            Self::ServerUnplugged(server) => {
                let machine = machines.servers[server].machine();
                machines.lan.set_cable(machine, "up");
            }
            Self::MemberUnplugged(member) => {
                machines.lan.set_cable(machines.etcd.machine(member), "up");
            }
            Self::Cut {
                servers,
                members,
                directions,
            } => {
                let etcd = &machines.etcd;
                for (server, member) in servers {
                    mend(machines.servers[server].machine(), etcd.machine(member));
                }
                for (one, other) in members {
                    mend(etcd.machine(one), etcd.machine(other));
                }
                for (from, to) in directions {
                    etcd.machine(from).find(etcd.machine(to));
                }
            }
        }
    }
}
