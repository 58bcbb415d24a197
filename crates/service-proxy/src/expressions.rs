//! The expressions of rules, with the names of `linux/netfilter/nf_tables.h`.

use std::net::Ipv4Addr;

use object_model::cidr::Cidr;
use service_routing::{Direction, MARK_MASQUERADE, MapName, Match, Protocol, RuleAction};

use crate::encode::endpoints_of;
use crate::message::Attributes;

pub(crate) const VERDICT_DROP: u32 = 0;
const VERDICT_ACCEPT: u32 = 1;
const VERDICT_JUMP: u32 = (-3_i32).cast_unsigned();
pub(crate) const VERDICT_GOTO: u32 = (-4_i32).cast_unsigned();
pub(crate) const VERDICT_RETURN: u32 = (-5_i32).cast_unsigned();

/// The register of the verdict.
const REGISTER_VERDICT: u32 = 0;
/// The first register with 16 bytes, which names of links need.
const REGISTER_FIRST: u32 = 1;
/// The first register with four bytes.
const REGISTER_A: u32 = 8;
const REGISTER_B: u32 = 9;
const REGISTER_C: u32 = 10;

pub(crate) const LIST_ELEMENT: u16 = 1;
pub(crate) const DATA_VALUE: u16 = 1;
pub(crate) const DATA_VERDICT: u16 = 2;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const SOURCE_OFFSET: u32 = 12;
const DESTINATION_OFFSET: u32 = 16;
const PORT_OFFSET: u32 = 2;
/// The offset of the virtual network's number in a VXLAN packet, from the UDP header.
const TUNNEL_NUMBER_OFFSET: u32 = 12;

const META_MARK: u32 = 3;
const META_INPUT: u32 = 4;
const META_OUTPUT: u32 = 5;
const META_INPUT_NAME: u32 = 6;
const META_OUTPUT_NAME: u32 = 7;
const META_PROTOCOL: u32 = 16;

const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 2;
const FIB_INPUT: u32 = 8;
const FIB_OUTPUT_INDEX: u32 = 1;
const FIB_ADDRESS_TYPE: u32 = 3;
const ADDRESS_LOCAL: u32 = 2;

const STATE_ESTABLISHED_OR_RELATED: u32 = 2 | 4;
const STATE_NEW: u32 = 8;
const NAT_SOURCE: u32 = 0;
const NAT_DESTINATION: u32 = 1;
const RANDOM_FULLY: u32 = 0x10;
const DYNAMIC_SET_UPDATE: u32 = 1;
const NUMBER_RANDOM: u32 = 1;
const REJECT_UNREACHABLE: u32 = 0;
const REJECT_RESET: u32 = 1;
const ICMP_PORT_UNREACHABLE: u8 = 3;
const LOOPBACK_INDEX: u32 = 1;
/// The offset of the flags FIN, SYN, RST and ACK in the TCP header. The first packet of a connection has
/// only SYN.
const TCP_FLAGS_OFFSET: u32 = 13;
const TCP_FLAGS: [u8; 4] = [0x17, 0, 0, 0];
const TCP_SYN: [u8; 4] = [0x02, 0, 0, 0];

/// Comparisons.
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;

/// The name of a map that belongs to one rule; the kernel gives it a number.
pub(crate) const ANONYMOUS_MAP: &str = "__map%d";

/// Writes a verdict and its chain.
pub(crate) fn goes(data: &mut Attributes<'_>, code: u32, chain: Option<&str>) {
    data.nested(DATA_VERDICT, |verdict| {
        verdict.number(1, code);
        if let Some(chain) = chain {
            verdict.text(2, chain);
        }
    });
}

/// The direction of a packet, with a prefix of a link's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkDirection<'a> {
    /// The packet arrives through this link.
    Input(&'a str),
    /// The packet leaves through this link.
    Output(&'a str),
}

/// Writes the expressions of a rule. Each expression loads a register, compares, or acts.
pub(crate) struct Expressions<'a, 'b> {
    pub(crate) list: &'a mut Attributes<'b>,
}

impl Expressions<'_, '_> {
    /// Accepts packets from or to links with the name prefix, to the address if it is set.
    pub(crate) fn accept(&mut self, by: LinkDirection<'_>, address: Option<Ipv4Addr>) {
        let (key, prefix) = match by {
            LinkDirection::Input(prefix) => (META_INPUT_NAME, prefix),
            LinkDirection::Output(prefix) => (META_OUTPUT_NAME, prefix),
        };
        self.link(key, prefix, true);
        if let Some(address) = address {
            self.load_header(NETWORK_HEADER, DESTINATION_OFFSET, 4, REGISTER_FIRST);
            self.compare_in(REGISTER_FIRST, true, &address.octets());
        }
        self.go(VERDICT_ACCEPT, None);
    }

    /// Continues if the link's name has the prefix; with `holds` false, if it does not.
    fn link(&mut self, key: u32, prefix: &str, holds: bool) {
        self.load_meta(key, REGISTER_FIRST);
        self.compare_in(REGISTER_FIRST, holds, prefix.as_bytes());
    }

    fn add(&mut self, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.list.nested(LIST_ELEMENT, |expression| {
            expression.text(1, name);
            expression.nested(2, fill);
        });
    }

    /// Continues if the condition holds.
    pub(crate) fn condition(&mut self, condition: &Match) {
        match condition {
            Match::Source(range, inside) => self.range(SOURCE_OFFSET, *range, *inside),
            Match::Destination(range, inside) => self.range(DESTINATION_OFFSET, *range, *inside),
            Match::SourceIsLocal(local) => self.is_local(FIB_SOURCE, *local),
            Match::DestinationIsLocal(local) => self.is_local(FIB_DESTINATION, *local),
            Match::NewConnection => {
                self.load_state();
                self.any_bit(STATE_NEW);
            }
            Match::Protocol(protocol) => self.is_protocol(*protocol),
            Match::Ports(protocol, first, last) => {
                self.is_protocol(*protocol);
                self.load_header(TRANSPORT_HEADER, PORT_OFFSET, 2, REGISTER_A);
                self.compare_by(AT_LEAST, REGISTER_A, &first.to_be_bytes());
                self.compare_by(AT_MOST, REGISTER_A, &last.to_be_bytes());
            }
            Match::Established => {
                self.load_state();
                self.any_bit(STATE_ESTABLISHED_OR_RELATED);
            }
            Match::StrayTcp => {
                self.is_protocol(Protocol::Tcp);
                self.load_header(TRANSPORT_HEADER, TCP_FLAGS_OFFSET, 1, REGISTER_A);
                self.bitwise(&TCP_FLAGS, &[0; 4]);
                self.compare(false, &TCP_SYN);
            }
            Match::Marked => {
                self.load_meta(META_MARK, REGISTER_A);
                self.any_bit(MARK_MASQUERADE);
            }
            Match::OutputIsNotLoopback => {
                self.load_meta(META_OUTPUT, REGISTER_A);
                self.compare(false, &LOOPBACK_INDEX.to_ne_bytes());
            }
            Match::InputIsNotLoopback => {
                self.load_meta(META_INPUT, REGISTER_A);
                self.compare(false, &LOOPBACK_INDEX.to_ne_bytes());
            }
            Match::InputLink(prefix, holds) => self.link(META_INPUT_NAME, prefix, *holds),
            Match::OutputLink(prefix) => self.link(META_OUTPUT_NAME, prefix, true),
            Match::SourceIsElsewhere => {
                self.fib(FIB_OUTPUT_INDEX, FIB_SOURCE | FIB_INPUT);
                self.compare(true, &[0; 4]);
            }
            Match::SourceIn(set) => {
                self.load_header(NETWORK_HEADER, SOURCE_OFFSET, 4, REGISTER_A);
                self.is_in(set);
            }
            Match::DestinationIn(set) => {
                self.load_header(NETWORK_HEADER, DESTINATION_OFFSET, 4, REGISTER_A);
                self.is_in(set);
            }
            Match::PortIn(set) => {
                self.load_header(NETWORK_HEADER, DESTINATION_OFFSET, 4, REGISTER_A);
                self.load_port(REGISTER_B, REGISTER_C);
                self.is_in(set);
            }
            Match::Listed(map, set) => {
                self.load_key(*map);
                match set {
                    Some(set) => self.is_in(&set.name(*map)),
                    None => self.is_in(map.as_str()),
                }
            }
            Match::TunnelNumber(number) => {
                self.load_header(TRANSPORT_HEADER, TUNNEL_NUMBER_OFFSET, 3, REGISTER_A);
                let [_, bytes @ ..] = number.to_be_bytes();
                self.compare(true, &bytes);
            }
            Match::DestinationIsBehindInput => {
                self.fib(FIB_OUTPUT_INDEX, FIB_DESTINATION | FIB_INPUT);
                self.compare(false, &[0; 4]);
            }
        }
    }

    /// Writes an action; `choice` is the map of a random choice.
    pub(crate) fn action(&mut self, action: &RuleAction, choice: Option<u32>) {
        match action {
            RuleAction::Jump(chain) => self.go(VERDICT_JUMP, Some(chain)),
            RuleAction::Goto(chain) => self.go(VERDICT_GOTO, Some(chain)),
            RuleAction::Accept => self.go(VERDICT_ACCEPT, None),
            RuleAction::Drop => self.go(VERDICT_DROP, None),
            RuleAction::Reset => self.add("reject", |a| a.number(1, REJECT_RESET)),
            RuleAction::Reject => self.add("reject", |a| {
                a.number(1, REJECT_UNREACHABLE);
                a.bytes(2, &[ICMP_PORT_UNREACHABLE]);
            }),
            RuleAction::Mark => self.set_mark(MARK_MASQUERADE),
            RuleAction::Masquerade => {
                self.set_mark(0);
                self.add("masq", |a| a.number(1, RANDOM_FULLY));
            }
            RuleAction::SourceAddress(ip) => {
                self.set_mark(0);
                self.source(ip.octets());
            }
            RuleAction::Endpoint(ip, port) => self.endpoint(ip.octets(), *port),
            RuleAction::Remember(set) => {
                self.load_header(NETWORK_HEADER, SOURCE_OFFSET, 4, REGISTER_A);
                self.add("dynset", |a| {
                    a.text(1, set);
                    a.number(3, DYNAMIC_SET_UPDATE);
                    a.number(4, REGISTER_A);
                });
            }
            RuleAction::Random(chains) => self.random(chains, choice),
            RuleAction::Ask(map) => {
                self.load_key(*map);
                self.look_up(map.as_str(), None);
            }
            RuleAction::Balance(map, count) => self.balance(*map, *count),
            RuleAction::Filter(direction) => {
                let offset = match direction {
                    Direction::Ingress => DESTINATION_OFFSET,
                    Direction::Egress => SOURCE_OFFSET,
                };
                self.load_header(NETWORK_HEADER, offset, 4, REGISTER_A);
                self.look_up(direction.map(), None);
            }
        }
    }

    fn is_protocol(&mut self, protocol: Protocol) {
        self.load_meta(META_PROTOCOL, REGISTER_A);
        self.compare(true, &[protocol.number()]);
    }

    /// Continues if the set contains the key in the registers.
    fn is_in(&mut self, set: &str) {
        self.add("lookup", |a| {
            a.text(1, set);
            a.number(2, REGISTER_A);
        });
    }

    fn load_port(&mut self, protocol: u32, port: u32) {
        self.load_meta(META_PROTOCOL, protocol);
        self.load_header(TRANSPORT_HEADER, PORT_OFFSET, 2, port);
    }

    fn random(&mut self, chains: &[String], choice: Option<u32>) {
        let Some(id) = choice else {
            // With one endpoint, no choice is needed; without endpoints, packets are dropped.
            let only = chains.first().map(String::as_str);
            return self.go(only.map_or(VERDICT_DROP, |_| VERDICT_GOTO), only);
        };
        self.random_number(chains.len(), REGISTER_A);
        self.look_up(ANONYMOUS_MAP, Some(id));
    }

    /// Loads a random number below `count`.
    fn random_number(&mut self, count: usize, register: u32) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.add("numgen", |a| {
            a.number(1, register);
            a.number(2, count);
            a.number(3, NUMBER_RANDOM);
            a.number(4, 0);
        });
    }

    /// Redirects the connection to one of the endpoints of its destination, if the map has the destination.
    fn balance(&mut self, map: MapName, count: usize) {
        let number = self.load_key(map);
        self.random_number(count, number);
        let (ip, port) = (number + 1, number + 2);
        self.read(&endpoints_of(map), ip);
        self.destination(ip, port);
    }

    /// Loads the key of the packet's destination, and returns the register after it.
    fn load_key(&mut self, map: MapName) -> u32 {
        let (protocol, port) = if map.by_address() {
            self.load_header(NETWORK_HEADER, DESTINATION_OFFSET, 4, REGISTER_A);
            (REGISTER_B, REGISTER_C)
        } else {
            (REGISTER_A, REGISTER_B)
        };
        self.load_port(protocol, port);
        port + 1
    }

    /// Loads the data for the key in the registers from a map, if the map has the key.
    fn read(&mut self, map: &str, register: u32) {
        self.add("lookup", |a| {
            a.text(1, map);
            a.number(2, REGISTER_A);
            a.number(3, register);
        });
    }

    fn look_up(&mut self, map: &str, id: Option<u32>) {
        self.add("lookup", |a| {
            a.text(1, map);
            a.number(2, REGISTER_A);
            a.number(3, REGISTER_VERDICT);
            if let Some(id) = id {
                a.number(4, id);
            }
        });
    }

    fn endpoint(&mut self, ip: [u8; 4], port: u16) {
        self.immediate(REGISTER_A, &ip);
        self.immediate(REGISTER_B, &port.to_be_bytes());
        self.destination(REGISTER_A, REGISTER_B);
    }

    /// Redirects the connection to the address and port in these registers.
    fn destination(&mut self, ip: u32, port: u32) {
        self.add("nat", |a| {
            a.number(1, NAT_DESTINATION);
            a.number(2, u32::from(crate::message::FAMILY_IPV4));
            a.number(3, ip);
            a.number(5, port);
        });
    }

    fn source(&mut self, ip: [u8; 4]) {
        self.immediate(REGISTER_A, &ip);
        self.add("nat", |a| {
            a.number(1, NAT_SOURCE);
            a.number(2, u32::from(crate::message::FAMILY_IPV4));
            a.number(3, REGISTER_A);
            a.number(7, RANDOM_FULLY);
        });
    }

    fn range(&mut self, offset: u32, range: Cidr, inside: bool) {
        self.load_header(NETWORK_HEADER, offset, 4, REGISTER_A);
        if range.prefix() < 32 {
            let mask = !(range.network().to_bits() ^ range.last().to_bits());
            self.bitwise(&mask.to_be_bytes(), &[0; 4]);
        }
        self.compare(inside, &range.network().octets());
    }

    fn is_local(&mut self, of: u32, local: bool) {
        self.fib(FIB_ADDRESS_TYPE, of);
        self.compare(local, &ADDRESS_LOCAL.to_ne_bytes());
    }

    /// Looks up the packet in the routing tables.
    fn fib(&mut self, result: u32, flags: u32) {
        self.add("fib", |a| {
            a.number(1, REGISTER_A);
            a.number(2, result);
            a.number(3, flags);
        });
    }

    /// Continues if one of the bits is set.
    fn any_bit(&mut self, bits: u32) {
        self.bitwise(&bits.to_ne_bytes(), &[0; 4]);
        self.compare(false, &[0; 4]);
    }

    fn set_mark(&mut self, bit: u32) {
        self.load_meta(META_MARK, REGISTER_A);
        self.bitwise(&(!MARK_MASQUERADE).to_ne_bytes(), &bit.to_ne_bytes());
        self.add("meta", |a| {
            a.number(2, META_MARK);
            a.number(3, REGISTER_A);
        });
    }

    fn go(&mut self, code: u32, chain: Option<&str>) {
        self.add("immediate", |a| {
            a.number(1, REGISTER_VERDICT);
            a.nested(2, |data| goes(data, code, chain));
        });
    }

    fn immediate(&mut self, register: u32, value: &[u8]) {
        self.add("immediate", |a| {
            a.number(1, register);
            a.nested(2, |data| data.bytes(DATA_VALUE, value));
        });
    }

    fn load_header(&mut self, base: u32, offset: u32, bytes: u32, register: u32) {
        self.add("payload", |a| {
            a.number(1, register);
            a.number(2, base);
            a.number(3, offset);
            a.number(4, bytes);
        });
    }

    fn load_meta(&mut self, key: u32, register: u32) {
        self.add("meta", |a| {
            a.number(1, register);
            a.number(2, key);
        });
    }

    fn load_state(&mut self) {
        self.add("ct", |a| {
            a.number(1, REGISTER_A);
            a.number(2, 0);
        });
    }

    fn bitwise(&mut self, mask: &[u8; 4], xor: &[u8; 4]) {
        self.add("bitwise", |a| {
            a.number(1, REGISTER_A);
            a.number(2, REGISTER_A);
            a.number(3, 4);
            a.nested(4, |data| data.bytes(DATA_VALUE, mask));
            a.nested(5, |data| data.bytes(DATA_VALUE, xor));
        });
    }

    fn compare(&mut self, equal: bool, value: &[u8]) {
        self.compare_in(REGISTER_A, equal, value);
    }

    fn compare_in(&mut self, register: u32, equal: bool, value: &[u8]) {
        let by = if equal { EQUAL } else { NOT_EQUAL };
        self.compare_by(by, register, value);
    }

    fn compare_by(&mut self, comparison: u32, register: u32, value: &[u8]) {
        self.add("cmp", |a| {
            a.number(1, register);
            a.number(2, comparison);
            a.nested(3, |data| data.bytes(DATA_VALUE, value));
        });
    }
}
