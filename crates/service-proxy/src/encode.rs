//! The parts of the table as nftables messages, with the names of `linux/netfilter/nf_tables.h`.

use service_routing::{
    Balance, Direction, Endpoint, Hook, HookKind, Key, MapName, MapVerdict, Member, Rule,
    RuleAction, ServiceSet, SetKind, TableChange,
};

use crate::expressions::{
    ANONYMOUS_MAP, DATA_VALUE, Expressions, LIST_ELEMENT, VERDICT_DROP, VERDICT_GOTO,
    VERDICT_RETURN, goes,
};
use crate::limits;
use crate::message::{Attributes, Batch, NLM_F_APPEND, NLM_F_CREATE};

const NEW_TABLE: u16 = 0;
/// The message that requests a table.
pub(crate) const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
/// The message that adds a chain, and the type of replies with a chain.
pub(crate) const NEW_CHAIN: u16 = 3;
/// The message that requests chains.
pub(crate) const GET_CHAIN: u16 = 4;
const DELETE_CHAIN: u16 = 5;
pub(crate) const NEW_RULE: u16 = 6;
/// The message that requests rules.
pub(crate) const GET_RULE: u16 = 7;
pub(crate) const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const DELETE_SET: u16 = 11;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

const SET_ANONYMOUS: u32 = 0x1;
const SET_CONSTANT: u32 = 0x2;
const SET_INTERVAL: u32 = 0x4;
const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
/// A flag of an element: a range ends before the element.
const ELEMENT_ENDS_RANGE: u32 = 0x1;

/// The type of keys. The kernel ignores it, but programs that print the table need it.
const TYPE_INTEGER: u32 = 4;
const TYPE_IPV4: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_MARK: u32 = 19;
const TYPE_VERDICT: u32 = 0xffff_ff00;
const TYPES_OF_PORT: u32 = TYPE_PROTOCOL << 6 | TYPE_PORT;
/// Bits per type in a key with several types.
const TYPE_BITS: u32 = 6;

/// A key, with the data of a map.
type Element = (Vec<u8>, Data);

/// The type of the keys or of the data of a set: its number and its bytes.
#[derive(Clone, Copy)]
struct FieldType(u32, u32);

const ADDRESS: FieldType = FieldType(TYPE_IPV4, 4);
const PORT: FieldType = FieldType(TYPES_OF_PORT, 8);
const ADDRESS_AND_PORT: FieldType = FieldType(TYPE_IPV4 << (2 * TYPE_BITS) | TYPES_OF_PORT, 12);
const NUMBER: FieldType = FieldType(TYPE_INTEGER, 4);
const VERDICT: FieldType = FieldType(TYPE_VERDICT, 0);
const ENDPOINT: FieldType = FieldType(TYPE_IPV4 << TYPE_BITS | TYPE_PORT, 8);

impl FieldType {
    /// The type of a key that consists of this type and a number.
    fn and_number(self) -> FieldType {
        FieldType(self.0 << TYPE_BITS | TYPE_MARK, self.1 + 4)
    }
}

/// The data of an element.
enum Data {
    /// An element of a set has no data.
    None,
    /// An element of a set of ranges: the first key after a range.
    EndOfRange,
    /// A verdict and its chain.
    Verdict(u32, Option<String>),
    Value(Vec<u8>),
}

impl Data {
    fn goto(chain: &str) -> Data {
        Data::Verdict(VERDICT_GOTO, Some(chain.to_owned()))
    }
}

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

    /// The bytes of a trial batch, which changes nothing.
    pub(crate) fn into_trial(self) -> Vec<u8> {
        self.batch.into_trial()
    }

    /// Creates the table if it is missing and then removes it, so that the removal never fails.
    pub(crate) fn remove_table(&mut self) {
        let table = self.table;
        self.batch
            .message(NEW_TABLE, NLM_F_CREATE, |a| a.text(1, table));
        self.batch.message(DELETE_TABLE, 0, |a| a.text(1, table));
    }

    /// Creates the table with its maps, without elements.
    pub(crate) fn add_table(&mut self) {
        let table = self.table;
        self.batch
            .message(NEW_TABLE, NLM_F_CREATE, |a| a.text(1, table));
        for map in MapName::ALL {
            let key = match map.by_address() {
                true => ADDRESS_AND_PORT,
                false => PORT,
            };
            if map.refuses() {
                self.add_set(map.as_str(), key);
                continue;
            }
            self.add_map(map.as_str(), SET_MAP, key, VERDICT);
            if map.balances() {
                for set in ServiceSet::all(map) {
                    self.add_set(&set.name(map), key);
                }
                self.add_map(&endpoints_of(map), SET_MAP, key.and_number(), ENDPOINT);
            }
        }
        for direction in Direction::BOTH {
            self.add_map(direction.map(), SET_MAP, ADDRESS, VERDICT);
        }
    }

    /// Encodes one change of the table.
    pub(crate) fn change(&mut self, change: &TableChange) {
        let table = self.table;
        match change {
            TableChange::AddSet(name, kind) => match kind {
                SetKind::Clients(seconds) => self.add_clients(name, *seconds),
                SetKind::Addresses => self.add_set(name, ADDRESS),
                SetKind::Ports => self.add_set(name, ADDRESS_AND_PORT),
                SetKind::Ranges => self.add_set_with(name, SET_INTERVAL, ADDRESS, |_| {}),
            },
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
                self.element(NEW_ELEMENT, *map, *key, verdict);
            }
            TableChange::RemoveElement(map, key, verdict) => {
                self.element(DELETE_ELEMENT, *map, *key, verdict);
            }
            TableChange::AddMembers(set, members) => {
                self.elements(NEW_ELEMENT, set, None, &as_elements(members));
            }
            TableChange::RemoveMembers(set, members) => {
                self.elements(DELETE_ELEMENT, set, None, &as_elements(members));
            }
            TableChange::AddFilter(direction, address, chain) => {
                let element = (address.octets().to_vec(), Data::goto(chain));
                self.elements(NEW_ELEMENT, direction.map(), None, &[element]);
            }
            TableChange::RemoveFilter(direction, address, chain) => {
                let element = (address.octets().to_vec(), Data::goto(chain));
                self.elements(DELETE_ELEMENT, direction.map(), None, &[element]);
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

    fn add_set(&mut self, name: &str, key: FieldType) {
        self.add_set_with(name, 0, key, |_| {});
    }

    fn add_map(&mut self, name: &str, flags: u32, key: FieldType, data: FieldType) {
        self.add_set_with(name, flags, key, |a| {
            a.number(6, data.0);
            a.number(7, data.1);
        });
    }

    /// Creates a set of clients, whose elements expire after some seconds.
    fn add_clients(&mut self, name: &str, seconds: u32) {
        self.add_set_with(name, SET_TIMEOUT | SET_EVAL, ADDRESS, |a| {
            a.bytes(11, &(u64::from(seconds) * 1000).to_be_bytes());
            a.nested(9, |description| {
                description.number(1, limits::AFFINITY_CLIENTS_MAX)
            });
        });
    }

    fn add_set_with(
        &mut self,
        name: &str,
        flags: u32,
        key: FieldType,
        more: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.set_id += 1;
        let (table, id) = (self.table, self.set_id);
        self.batch.message(NEW_SET, NLM_F_CREATE, |a| {
            a.text(1, table);
            a.text(2, name);
            a.number(3, flags);
            a.number(4, key.0);
            a.number(5, key.1);
            a.number(10, id);
            more(a);
        });
    }

    /// Adds or removes an element of a map of the table. One map of the table may be several maps in the
    /// kernel.
    fn element(&mut self, kind: u16, map: MapName, key: Key, verdict: &MapVerdict) {
        let key = key_bytes(key);
        let data = match verdict {
            MapVerdict::Goto(chain) => Data::goto(chain),
            MapVerdict::Drop => Data::Verdict(VERDICT_DROP, None),
            MapVerdict::Return => Data::Verdict(VERDICT_RETURN, None),
            MapVerdict::Reject => Data::None,
            MapVerdict::Balance(balance) => return self.balance(kind, map, &key, balance),
        };
        self.elements(kind, map.as_str(), None, &[(key, data)]);
    }

    fn balance(&mut self, kind: u16, map: MapName, key: &[u8], balance: &Balance) {
        for set in balance.sets() {
            let element = (key.to_vec(), Data::None);
            self.elements(kind, &set.name(map), None, &[element]);
        }
        let element = |(number, endpoint): (u32, &Endpoint)| {
            let key = [key, &number.to_ne_bytes()].concat();
            let (ip, port) = (endpoint.ip.octets(), endpoint.port.to_be_bytes());
            (key, Data::Value([&ip[..], &port, &[0; 2]].concat()))
        };
        let elements: Vec<_> = (0..).zip(&balance.endpoints).map(element).collect();
        self.elements(kind, &endpoints_of(map), None, &elements);
    }

    /// Adds or removes elements, in as many messages as necessary. Elements of a map have data.
    fn elements(&mut self, kind: u16, set: &str, id: Option<u32>, elements: &[Element]) {
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
                        let Some((key, data)) = rest.next() else {
                            break;
                        };
                        list.nested(LIST_ELEMENT, |element| {
                            element.nested(1, |a| a.bytes(DATA_VALUE, key));
                            match data {
                                Data::Verdict(code, chain) if kind == NEW_ELEMENT => {
                                    element.nested(2, |a| goes(a, *code, chain.as_deref()));
                                }
                                Data::Value(value) if kind == NEW_ELEMENT => {
                                    element.nested(2, |a| a.bytes(DATA_VALUE, value));
                                }
                                Data::EndOfRange => element.number(3, ELEMENT_ENDS_RANGE),
                                Data::None | Data::Verdict(..) | Data::Value(_) => {}
                            }
                        });
                    }
                });
            });
        }
    }

    fn add_rule(&mut self, chain: &str, rule: &Rule) {
        let choice = match &rule.action {
            RuleAction::Random(chains) if chains.len() > 1 => Some(self.add_choice(chains)),
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

    /// Creates the map from a random number to a chain for one rule. The kernel names the map and removes
    /// it with the rule.
    fn add_choice(&mut self, chains: &[String]) -> u32 {
        let flags = SET_ANONYMOUS | SET_CONSTANT | SET_MAP;
        self.add_map(ANONYMOUS_MAP, flags, NUMBER, VERDICT);
        let id = self.set_id;
        let element =
            |(index, chain): (u32, &String)| (index.to_ne_bytes().to_vec(), Data::goto(chain));
        let elements: Vec<_> = (0..).zip(chains).map(element).collect();
        self.elements(NEW_ELEMENT, ANONYMOUS_MAP, Some(id), &elements);
        id
    }
}

fn base_chain(a: &mut Attributes<'_>, hook: Hook) {
    a.nested(4, |hook_attributes| {
        hook_attributes.number(1, hook.number);
        hook_attributes.bytes(2, &hook.priority.to_be_bytes());
    });
    a.text(
        7,
        match hook.kind {
            HookKind::Nat => "nat",
            HookKind::Filter => "filter",
        },
    );
}

/// The kernel's map from a Service and a number to an endpoint.
pub(crate) fn endpoints_of(map: MapName) -> String {
    format!("{}-endpoints", map.as_str())
}

fn as_elements(members: &[Member]) -> Vec<Element> {
    let mut elements = Vec::with_capacity(members.len());
    for member in members {
        let key = match member {
            Member::Address(address) | Member::Range(address, _) => address.octets().to_vec(),
            Member::Port(key) => key_bytes(*key),
        };
        elements.push((key, Data::None));
        // A range up to the last address has no end element.
        if let Member::Range(_, last) = member
            && let Some(end) = last.to_bits().checked_add(1)
        {
            elements.push((end.to_be_bytes().to_vec(), Data::EndOfRange));
        }
    }
    elements
}

/// The fields of a key, each padded to four bytes.
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
