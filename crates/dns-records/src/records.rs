//! The DNS records of one Service.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use crate::answer::Data;
use crate::names;

/// A name in lower case, and the data of its record.
pub(crate) type DnsRecord = (String, Data);

/// Each record once.
type Records = BTreeSet<DnsRecord>;

/// The records of the Service with that name.
pub(crate) fn of_service(
    name: &str,
    service: &Service,
    slices: &[&EndpointSlice],
) -> Vec<DnsRecord> {
    let mut records = Records::new();
    if let Some(spec) = &service.spec {
        add_service(&mut records, name, spec, slices);
    }
    records.into_iter().collect()
}

fn add_service(records: &mut Records, name: &str, spec: &ServiceSpec, slices: &[&EndpointSlice]) {
    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec.external_name.as_deref().unwrap_or_default();
        let target = target.trim_end_matches('.').to_ascii_lowercase();
        if !target.is_empty() {
            add(records, name, Data::Cname(target));
        }
        return;
    }
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let addresses: BTreeSet<IpAddr> = all.filter_map(|text| text.parse().ok()).collect();
    for address in &addresses {
        add(records, name, address_data(*address));
        let reverse = names::reverse_name(*address);
        add(records, &reverse, Data::Ptr(name.to_owned()));
    }
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if !addresses.is_empty() {
        for port in spec.ports.iter().flatten() {
            add_port(records, name, port);
        }
    }
    for slice in slices {
        add_slice(records, name, slice, headless);
    }
}

fn add(records: &mut Records, name: &str, data: Data) {
    records.insert((name.to_ascii_lowercase(), data));
}

/// A port of a Service with a cluster IP: one SRV target, the Service.
fn add_port(records: &mut Records, name: &str, port: &ServicePort) {
    let Ok(number) = u16::try_from(port.port) else {
        return;
    };
    let record = || Data::Srv {
        weight: 100,
        port: number,
        target: name.to_owned(),
    };
    add(records, name, record());
    let port_name = port
        .name
        .as_deref()
        .filter(|port_name| !port_name.is_empty());
    if let Some(port_name) = port_name {
        let full = server_name(port_name, port.protocol.as_deref(), name);
        add(records, &full, record());
    }
}

/// Adds the records of ready endpoints (including published unready endpoints: statefulset.md §10.7), each with its own
/// name; in a headless Service also with the Service's name and ports.
fn add_slice(records: &mut Records, name: &str, slice: &EndpointSlice, headless: bool) {
    for endpoint in slice
        .endpoints
        .iter()
        .flatten()
        .filter(|endpoint| is_ready(endpoint))
    {
        for address in endpoint
            .addresses
            .iter()
            .filter_map(|text| text.parse().ok())
        {
            let hostname = endpoint.hostname.as_deref().filter(|name| !name.is_empty());
            let label = hostname.map_or_else(|| names::address_label(address), str::to_owned);
            let full = format!("{label}.{name}");
            add(records, &full, address_data(address));
            if headless || hostname.is_some() {
                add(
                    records,
                    &names::reverse_name(address),
                    Data::Ptr(full.clone()),
                );
            }
            if headless {
                add(records, name, address_data(address));
                for port in slice.ports.iter().flatten() {
                    add_endpoint_port(records, name, port, &full);
                }
            }
        }
    }
}

fn add_endpoint_port(records: &mut Records, service: &str, port: &EndpointPort, target: &str) {
    let number = port.port.and_then(|number| u16::try_from(number).ok());
    let Some(number) = number.filter(|number| *number != 0) else {
        return;
    };
    let record = || Data::Srv {
        weight: 100,
        port: number,
        target: target.to_owned(),
    };
    add(records, service, record());
    let port_name = port
        .name
        .as_deref()
        .filter(|port_name| !port_name.is_empty());
    if let Some(port_name) = port_name {
        let full = server_name(port_name, port.protocol.as_deref(), service);
        add(records, &full, record());
    }
}

fn server_name(port: &str, protocol: Option<&str>, service: &str) -> String {
    let protocol = protocol
        .filter(|protocol| !protocol.is_empty())
        .unwrap_or("TCP");
    format!("_{port}._{}.{service}", protocol.to_ascii_lowercase())
}

pub(crate) fn address_data(address: IpAddr) -> Data {
    match address {
        IpAddr::V4(address) => Data::A(address),
        IpAddr::V6(address) => Data::Aaaa(address),
    }
}

/// Whether an endpoint is ready; an unknown state counts as ready.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true)
}
