//! The table's parts as nftables messages, with the names of `linux/netfilter/nf_tables.h`.

use std::net::Ipv4Addr;

use object_model::cidr::Cidr;
use service_routing::{
    Action, Hook, HookKind, Key, MARK_MASQUERADE, MapName, Match, Rule, TableChange, Verdict,
};

use crate::limits;
use crate::message::{Attributes, Batch, NLM_F_APPEND, NLM_F_CREATE};

const NEW_TABLE: u16 = 0;
/// Asks for a table.
pub(crate) const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
/// Adds a chain; also the type of replies about one.
pub(crate) const NEW_CHAIN: u16 = 3;
/// Asks for chains.
pub(crate) const GET_CHAIN: u16 = 4;
const DELETE_CHAIN: u16 = 5;
pub(crate) const NEW_RULE: u16 = 6;
/// Asks for rules.
pub(crate) const GET_RULE: u16 = 7;
pub(crate) const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const DELETE_SET: u16 = 11;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

const SET_ANONYMOUS: u32 = 0x1;
const SET_CONSTANT: u32 = 0x2;
const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;

/// Key types only matter for programs that list the table.
const TYPE_INTEGER: u32 = 4;
const TYPE_IPV4: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_VERDICT: u32 = 0xffff_ff00;

const VERDICT_DROP: u32 = 0;
const VERDICT_ACCEPT: u32 = 1;
const VERDICT_JUMP: u32 = (-3_i32).cast_unsigned();
const VERDICT_GOTO: u32 = (-4_i32).cast_unsigned();
const VERDICT_RETURN: u32 = (-5_i32).cast_unsigned();

/// The register of a verdict.
const REGISTER_VERDICT: u32 = 0;
/// First register of sixteen bytes, as the names of links need.
const REGISTER_FIRST: u32 = 1;
/// First of the registers of four bytes.
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
const PROTOCOL_TCP: u8 = 6;
const REJECT_UNREACHABLE: u32 = 0;
const REJECT_RESET: u32 = 1;
const ICMP_PORT_UNREACHABLE: u8 = 3;
const LOOPBACK_INDEX: u32 = 1;

/// Writes changes of one table into a batch.
pub(crate) struct Encoder<'a> {
    batch: Batch,
    table: &'a str,
    set_id: u32,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(table: &'a str) -> Encoder<'a> {
        Encoder {
            batch: Batch::new(),
            table,
            set_id: 0,
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.batch.into_bytes()
    }

    /// Makes the table if it is missing, so that the removal after it never fails.
    pub(crate) fn remove_table(&mut self) {
        let table = self.table;
        self.batch
            .message(NEW_TABLE, NLM_F_CREATE, |a| a.text(1, table));
        self.batch.message(DELETE_TABLE, 0, |a| a.text(1, table));
    }

    /// Makes the table with its maps, without elements.
    pub(crate) fn add_table(&mut self) {
        let table = self.table;
        self.batch
            .message(NEW_TABLE, NLM_F_CREATE, |a| a.text(1, table));
        for map in MapName::ALL {
            let by_port = TYPE_PROTOCOL << 6 | TYPE_PORT;
            let (key_type, key_bytes) = match map.by_address() {
                true => (TYPE_IPV4 << 12 | by_port, 12),
                false => (by_port, 8),
            };
            self.add_set(map.as_str(), SET_MAP, key_type, key_bytes, None);
        }
    }

    /// Writes one step.
    pub(crate) fn change(&mut self, change: &TableChange) {
        let table = self.table;
        match change {
            TableChange::AddSet(name, seconds) => {
                self.add_set(name, SET_TIMEOUT | SET_EVAL, TYPE_IPV4, 4, Some(*seconds));
            }
            TableChange::AddChain(name, hook) => self.batch.message(NEW_CHAIN, NLM_F_CREATE, |a| {
                a.text(1, table);
                a.text(3, name);
                if let Some(hook) = hook {
                    base_chain(a, *hook);
                }
            }),
            TableChange::FlushChain(name) => self.batch.message(DELETE_RULE, 0, |a| {
                a.text(1, table);
                a.text(2, name);
            }),
            TableChange::AddRule(chain, rule) => self.add_rule(chain, rule),
            TableChange::AddElement(map, key, verdict) => {
                let element = (key_bytes(*key), verdict.clone());
                self.elements(NEW_ELEMENT, map.as_str(), None, &[element]);
            }
            TableChange::RemoveElement(map, key, verdict) => {
                let element = (key_bytes(*key), verdict.clone());
                self.elements(DELETE_ELEMENT, map.as_str(), None, &[element]);
            }
            TableChange::RemoveChain(name) => self.batch.message(DELETE_CHAIN, 0, |a| {
                a.text(1, table);
                a.text(3, name);
            }),
            TableChange::RemoveSet(name) => self.batch.message(DELETE_SET, 0, |a| {
                a.text(1, table);
                a.text(2, name);
            }),
        }
    }

    fn add_set(
        &mut self,
        name: &str,
        flags: u32,
        key_type: u32,
        key_bytes: u32,
        seconds: Option<u32>,
    ) {
        self.set_id += 1;
        let (table, id) = (self.table, self.set_id);
        self.batch.message(NEW_SET, NLM_F_CREATE, |a| {
            a.text(1, table);
            a.text(2, name);
            a.number(3, flags);
            a.number(4, key_type);
            a.number(5, key_bytes);
            if flags & SET_MAP != 0 {
                a.number(6, TYPE_VERDICT);
                a.number(7, 0);
            }
            a.number(10, id);
            if let Some(seconds) = seconds {
                a.bytes(11, &(u64::from(seconds) * 1000).to_be_bytes());
                a.nested(9, |description| {
                    description.number(1, limits::AFFINITY_CLIENTS_MAX)
                });
            }
        });
    }

    /// Adds or removes elements, in as many messages as necessary.
    fn elements(&mut self, kind: u16, set: &str, id: Option<u32>, elements: &[(Vec<u8>, Verdict)]) {
        let table = self.table;
        let flags = if kind == NEW_ELEMENT { NLM_F_CREATE } else { 0 };
        let mut rest = elements.iter().peekable();
        while rest.peek().is_some() {
            self.batch.message(kind, flags, |a| {
                a.text(1, table);
                a.text(2, set);
                if let Some(id) = id {
                    a.number(4, id);
                }
                a.nested(3, |list| {
                    let end = list.len() + limits::LIST_BYTES_MAX;
                    while list.len() < end {
                        let Some((key, target)) = rest.next() else {
                            break;
                        };
                        list.nested(LIST_ELEMENT, |element| {
                            element.nested(1, |data| data.bytes(DATA_VALUE, key));
                            if kind == NEW_ELEMENT {
                                element.nested(2, |data| verdict(data, target));
                            }
                        });
                    }
                });
            });
        }
    }

    fn add_rule(&mut self, chain: &str, rule: &Rule) {
        let choice = match &rule.action {
            Action::Random(chains) if chains.len() > 1 => Some(self.add_choice(chains)),
            _ => None,
        };
        let table = self.table;
        self.batch
            .message(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, |a| {
                a.text(1, table);
                a.text(2, chain);
                a.nested(4, |expressions| {
                    let mut expressions = Expressions { list: expressions };
                    for condition in &rule.matches {
                        expressions.condition(condition);
                    }
                    expressions.action(&rule.action, choice);
                });
            });
    }

    /// Creates the map from a random number to a chain for one rule; the kernel names it and
    /// removes it with the rule.
    fn add_choice(&mut self, chains: &[String]) -> u32 {
        let flags = SET_ANONYMOUS | SET_CONSTANT | SET_MAP;
        self.add_set(ANONYMOUS_MAP, flags, TYPE_INTEGER, 4, None);
        let id = self.set_id;
        let element = |(index, chain): (u32, &String)| {
            (index.to_ne_bytes().to_vec(), Verdict::Goto(chain.clone()))
        };
        let elements: Vec<_> = (0..).zip(chains).map(element).collect();
        self.elements(NEW_ELEMENT, ANONYMOUS_MAP, Some(id), &elements);
        id
    }
}

const ANONYMOUS_MAP: &str = "__map%d";

fn base_chain(a: &mut Attributes<'_>, hook: Hook) {
    a.nested(4, |place| {
        place.number(1, hook.number);
        place.bytes(2, &hook.priority.to_be_bytes());
    });
    a.text(
        7,
        match hook.kind {
            HookKind::Nat => "nat",
            HookKind::Filter => "filter",
        },
    );
}

fn verdict(data: &mut Attributes<'_>, verdict: &Verdict) {
    match verdict {
        Verdict::Goto(chain) => goes(data, VERDICT_GOTO, Some(chain)),
        Verdict::Drop => goes(data, VERDICT_DROP, None),
        Verdict::Return => goes(data, VERDICT_RETURN, None),
    }
}

fn goes(data: &mut Attributes<'_>, code: u32, chain: Option<&str>) {
    data.nested(DATA_VERDICT, |verdict| {
        verdict.number(1, code);
        if let Some(chain) = chain {
            verdict.text(2, chain);
        }
    });
}

/// A key's fields, each padded to four bytes.
fn key_bytes(key: Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12);
    if let Some(address) = key.address {
        bytes.extend(address.octets());
    }
    bytes.extend([key.protocol.number(), 0, 0, 0]);
    bytes.extend(key.port.to_be_bytes());
    bytes.extend([0, 0]);
    bytes
}

/// The direction of a packet, with the prefix of a link's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link<'a> {
    /// It came in there.
    Input(&'a str),
    /// It leaves by this link.
    Output(&'a str),
}

/// The expressions of a rule. Each loads into a register, compares, or acts.
pub(crate) struct Expressions<'a, 'b> {
    pub(crate) list: &'a mut Attributes<'b>,
}

impl Expressions<'_, '_> {
    /// Accepts packets from (or to) links with that name prefix, to the address.
    pub(crate) fn accept(&mut self, by: Link<'_>, address: Option<Ipv4Addr>) {
        let (key, prefix) = match by {
            Link::Input(prefix) => (META_INPUT_NAME, prefix),
            Link::Output(prefix) => (META_OUTPUT_NAME, prefix),
        };
        self.link(key, prefix, true);
        if let Some(address) = address {
            self.load_header(NETWORK_HEADER, DESTINATION_OFFSET, 4, REGISTER_FIRST);
            self.compare_in(REGISTER_FIRST, true, &address.octets());
        }
        self.go(VERDICT_ACCEPT, None);
    }

    /// Continues if the link's name has the prefix (or has not).
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

    fn condition(&mut self, condition: &Match) {
        match condition {
            Match::Source(range, inside) => self.range(SOURCE_OFFSET, *range, *inside),
            Match::Destination(range, inside) => self.range(DESTINATION_OFFSET, *range, *inside),
            Match::SourceIsLocal(local) => self.is_local(FIB_SOURCE, *local),
            Match::DestinationIsLocal(local) => self.is_local(FIB_DESTINATION, *local),
            Match::NewConnection => {
                self.load_state();
                self.any_bit(STATE_NEW, true);
            }
            Match::IsTcp => {
                self.load_meta(META_PROTOCOL, REGISTER_A);
                self.compare(true, &[PROTOCOL_TCP]);
            }
            Match::NotEstablished => {
                self.load_state();
                self.any_bit(STATE_ESTABLISHED_OR_RELATED, false);
            }
            Match::Marked => {
                self.load_meta(META_MARK, REGISTER_A);
                self.any_bit(MARK_MASQUERADE, true);
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
            Match::ClientIn(set) => {
                self.load_header(NETWORK_HEADER, SOURCE_OFFSET, 4, REGISTER_A);
                self.add("lookup", |a| {
                    a.text(1, set);
                    a.number(2, REGISTER_A);
                });
            }
        }
    }

    fn action(&mut self, action: &Action, choice: Option<u32>) {
        match action {
            Action::Jump(chain) => self.go(VERDICT_JUMP, Some(chain)),
            Action::Goto(chain) => self.go(VERDICT_GOTO, Some(chain)),
            Action::Drop => self.go(VERDICT_DROP, None),
            Action::Reset => self.add("reject", |a| a.number(1, REJECT_RESET)),
            Action::Reject => self.add("reject", |a| {
                a.number(1, REJECT_UNREACHABLE);
                a.bytes(2, &[ICMP_PORT_UNREACHABLE]);
            }),
            Action::Mark => self.set_mark(MARK_MASQUERADE),
            Action::Masquerade => {
                self.set_mark(0);
                self.add("masq", |a| a.number(1, RANDOM_FULLY));
            }
            Action::SourceAddress(ip) => {
                self.set_mark(0);
                self.source(ip.octets());
            }
            Action::Endpoint(ip, port) => self.endpoint(ip.octets(), *port),
            Action::Remember(set) => {
                self.load_header(NETWORK_HEADER, SOURCE_OFFSET, 4, REGISTER_A);
                self.add("dynset", |a| {
                    a.text(1, set);
                    a.number(3, DYNAMIC_SET_UPDATE);
                    a.number(4, REGISTER_A);
                });
            }
            Action::Random(chains) => self.random(chains, choice),
            Action::Ask(map) => self.ask(*map),
        }
    }

    fn random(&mut self, chains: &[String], choice: Option<u32>) {
        let Some(id) = choice else {
            // One endpoint needs no choice, none cannot be routed to.
            let only = chains.first().map(String::as_str);
            return self.go(only.map_or(VERDICT_DROP, |_| VERDICT_GOTO), only);
        };
        let count = u32::try_from(chains.len()).unwrap_or(u32::MAX);
        self.add("numgen", |a| {
            a.number(1, REGISTER_A);
            a.number(2, count);
            a.number(3, NUMBER_RANDOM);
            a.number(4, 0);
        });
        self.look_up(ANONYMOUS_MAP, Some(id));
    }

    fn ask(&mut self, map: MapName) {
        let (protocol, port) = if map.by_address() {
            self.load_header(NETWORK_HEADER, DESTINATION_OFFSET, 4, REGISTER_A);
            (REGISTER_B, REGISTER_C)
        } else {
            (REGISTER_A, REGISTER_B)
        };
        self.load_meta(META_PROTOCOL, protocol);
        self.load_header(TRANSPORT_HEADER, PORT_OFFSET, 2, port);
        self.look_up(map.as_str(), None);
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
        self.add("nat", |a| {
            a.number(1, NAT_DESTINATION);
            a.number(2, u32::from(crate::message::FAMILY_IPV4));
            a.number(3, REGISTER_A);
            a.number(5, REGISTER_B);
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

    /// Asks the routes about the packet.
    fn fib(&mut self, result: u32, flags: u32) {
        self.add("fib", |a| {
            a.number(1, REGISTER_A);
            a.number(2, result);
            a.number(3, flags);
        });
    }

    /// Continues if one of the bits is set (or none is).
    fn any_bit(&mut self, bits: u32, set: bool) {
        self.bitwise(&bits.to_ne_bytes(), &[0; 4]);
        self.compare(!set, &[0; 4]);
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
        self.add("cmp", |a| {
            a.number(1, register);
            a.number(2, u32::from(!equal));
            a.nested(3, |data| data.bytes(DATA_VALUE, value));
        });
    }
}
