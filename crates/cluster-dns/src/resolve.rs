//! The response to a query: from the zone, or from upstream servers.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use dns_records::{Data, Kind, LookupResult, NEGATIVE_TTL_SECONDS, TTL_SECONDS, Zone};
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::forward::Forwarder;
use crate::limits;
use crate::wire::{Request, Response, name, record};

/// The current zone; `None` until Services and endpoints were listed.
#[derive(Clone, Default)]
pub(crate) struct CurrentZone {
    zone: Arc<RwLock<Option<Zone>>>,
}

impl CurrentZone {
    /// Replaces the whole zone; queries wait for it.
    pub(crate) fn set(&self, zone: Zone) {
        *self.write() = Some(zone);
    }

    /// Changes the zone, if there is one, under its write lock.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Zone)) {
        self.write().as_mut().map(change);
    }

    fn write(&self) -> RwLockWriteGuard<'_, Option<Zone>> {
        self.zone.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<Zone>> {
        self.zone.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The response to a query without an upstream server.
pub(crate) enum LocalAnswer {
    /// The complete response.
    Complete(Response),
    /// The query must be forwarded; the response of the upstream server is appended to this response.
    Elsewhere(Box<Query>, Response),
}

/// Resolves queries; clones share all data.
#[derive(Clone)]
pub(crate) struct Resolver {
    domain: String,
    zone: CurrentZone,
    forwarder: Forwarder,
    rotation: Arc<AtomicUsize>,
}

impl Resolver {
    pub(crate) fn new(domain: &str, zone: CurrentZone, forwarder: Forwarder) -> Resolver {
        let domain = domain.to_ascii_lowercase();
        Resolver {
            domain,
            zone,
            forwarder,
            rotation: Arc::default(),
        }
    }

    /// Resolves the query from the zone and the cache, as far as possible.
    pub(crate) fn local(&self, request: &Request) -> LocalAnswer {
        let local = self.look_up(&request.query);
        match local {
            LocalAnswer::Elsewhere(query, mut so_far) if so_far.answers.is_empty() => {
                match self.forwarder.cached(&query, request.wants_proof()) {
                    Some(cached) => LocalAnswer::Complete(cached),
                    None => {
                        so_far.authoritative = false;
                        LocalAnswer::Elsewhere(query, so_far)
                    }
                }
            }
            local => local,
        }
    }

    /// Forwards the rest of a query.
    pub(crate) async fn elsewhere(&self, proof: bool, query: &Query, so_far: Response) -> Response {
        let mut response = self.forwarder.ask(query, proof).await;
        // Without upstream servers the response would be SERVFAIL, and some clients retry for seconds. The name of a
        // peer that does not exist yet is known to be absent without a query.
        let resembles = |zone: &Zone| zone.resembles(&query.name.to_ascii());
        if response.code == ResponseCode::ServFail
            && self.zone.read().as_ref().is_some_and(resembles)
        {
            response.code = ResponseCode::NXDomain;
        }
        if !so_far.answers.is_empty() {
            response.answers.splice(0..0, so_far.answers);
            response.authoritative = so_far.authoritative;
        }
        response
    }

    fn look_up(&self, query: &Query) -> LocalAnswer {
        let kind = kind_of(query.query_type);
        let lower_name = query.name.to_ascii().to_ascii_lowercase();
        if let Some(response) = loopback_response(query, &lower_name, kind) {
            return LocalAnswer::Complete(response);
        }
        let zone = self.zone.read();
        let Some(zone) = zone.as_ref() else {
            let ours = lower_name.trim_end_matches('.').ends_with(&self.domain);
            let nothing = Response::default();
            return match ours {
                true => LocalAnswer::Complete(Response::code(ResponseCode::ServFail)),
                false => LocalAnswer::Elsewhere(Box::new(query.clone()), nothing),
            };
        };
        let mut response = Response {
            authoritative: true,
            ..Response::default()
        };
        let mut owner = query.name.clone();
        let mut lookup = zone.lookup(&lower_name, kind);
        for _ in 0..limits::ALIASES_MAX {
            let (records, additional) = match lookup {
                LookupResult::Records {
                    records,
                    additional,
                } => (records, additional),
                LookupResult::NotOurs => {
                    let mut query = query.clone();
                    query.name = owner;
                    return LocalAnswer::Elsewhere(Box::new(query), response);
                }
                LookupResult::NoSuchName | LookupResult::NoData => {
                    let missing = matches!(lookup, LookupResult::NoSuchName);
                    // If there is an alias, the requested name exists.
                    if missing && response.answers.is_empty() {
                        response.code = ResponseCode::NXDomain;
                    }
                    response.authorities.extend(authority(zone));
                    break;
                }
            };
            let alias = alias_of(&records, kind).and_then(name);
            self.add(&mut response, zone, &owner, records, additional);
            let Some(target) = alias else { break };
            lookup = zone.lookup(&target.to_ascii(), kind);
            owner = target;
        }
        LocalAnswer::Complete(response)
    }

    fn add(
        &self,
        response: &mut Response,
        zone: &Zone,
        owner: &Name,
        mut records: Vec<Data>,
        additional: Vec<(String, Data)>,
    ) {
        // Clients use the first address, so the addresses are rotated.
        if records.len() > 1 {
            let rotation = self.rotation.fetch_add(1, Ordering::Relaxed) % records.len();
            records.rotate_left(rotation);
        }
        let records = records
            .iter()
            .filter_map(|data| to_record(zone, owner, data));
        response.answers.extend(records);
        let more = additional.iter().filter_map(|(owner, data)| {
            let owner = name(owner)?;
            to_record(zone, &owner, data)
        });
        response.additionals.extend(more);
    }
}

/// The response to a query for a name of the machine itself; such names are never forwarded (RFC 6761).
fn loopback_response(query: &Query, host_name: &str, kind: Kind) -> Option<Response> {
    let host_name = host_name.trim_end_matches('.');
    let is_localhost = host_name == "localhost" || host_name.ends_with(".localhost");
    let is_loopback = host_name.ends_with(".127.in-addr.arpa");
    if !is_localhost && !is_loopback {
        return None;
    }
    let data = match kind {
        Kind::A if is_localhost => RData::A(A(Ipv4Addr::LOCALHOST)),
        Kind::Aaaa if is_localhost => RData::AAAA(AAAA(Ipv6Addr::LOCALHOST)),
        Kind::Ptr if is_loopback => RData::PTR(PTR(name("localhost")?)),
        _ => return Some(Response::default()),
    };
    let records = vec![record(&query.name, TTL_SECONDS, data)];
    Some(Response {
        answers: records,
        ..Response::default()
    })
}

fn kind_of(record_type: RecordType) -> Kind {
    match record_type {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        RecordType::CNAME => Kind::Cname,
        RecordType::TXT => Kind::Txt,
        RecordType::NS => Kind::Ns,
        RecordType::SOA => Kind::Soa,
        RecordType::ANY => Kind::Any,
        _ => Kind::Other,
    }
}

/// Returns the target of an alias, unless the query is for the alias itself.
fn alias_of(records: &[Data], kind: Kind) -> Option<&str> {
    records.iter().find_map(|data| match data {
        Data::Cname(target) if !matches!(kind, Kind::Cname | Kind::Any) => Some(target.as_str()),
        _ => None,
    })
}

fn to_record(zone: &Zone, owner: &Name, data: &Data) -> Option<Record> {
    let data = match data {
        Data::A(address) => RData::A(A(*address)),
        Data::Aaaa(address) => RData::AAAA(AAAA(*address)),
        Data::Srv {
            weight,
            port,
            target,
        } => RData::SRV(SRV::new(0, *weight, *port, name(target)?)),
        Data::Ptr(target) => RData::PTR(PTR(name(target)?)),
        Data::Cname(target) => RData::CNAME(CNAME(name(target)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
        Data::Ns(target) => RData::NS(NS(name(target)?)),
        Data::Soa => RData::SOA(start_of_authority(zone)?),
    };
    Some(record(owner, TTL_SECONDS, data))
}

/// The SOA record with the caching time of negative answers.
fn authority(zone: &Zone) -> Option<Record> {
    let owner = name(zone.domain())?;
    Some(record(
        &owner,
        NEGATIVE_TTL_SECONDS,
        RData::SOA(start_of_authority(zone)?),
    ))
}

fn start_of_authority(zone: &Zone) -> Option<SOA> {
    let server = name(&format!("ns.dns.{}", zone.domain()))?;
    let person = name(&format!("hostmaster.{}", zone.domain()))?;
    // There are no secondary servers, which would read the serial number and the times.
    Some(SOA::new(
        server,
        person,
        1,
        7200,
        1800,
        86_400,
        NEGATIVE_TTL_SECONDS,
    ))
}
