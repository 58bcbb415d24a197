//! For any two states of a cluster, the changes lead from the table of one state to the table of the other, and the
//! kernel accepts every step.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use object_model::cidr::Cidr;
use object_model::listening::{Listening, ListeningAddress, Transport};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use service_routing::{
    Affinity, BALANCED_ENDPOINTS_MAX, Endpoint, Endpoints, HostPort, MachineAddresses, Protocol,
    PublishedPort, Routes, ServiceAge, ServiceName, ServicePort, Settings, Table, TunnelGuard,
    apply, changes, guard, hold, publish, table,
};

fn address(numbers: &mut StdRng, net: [u8; 3]) -> Ipv4Addr {
    let last = u8::try_from(numbers.random_range(0..6) + 2).unwrap();
    Ipv4Addr::new(net[0], net[1], net[2], last)
}

/// One of many endpoints.
fn endpoint_at(number: usize) -> Endpoint {
    Endpoint {
        ip: Ipv4Addr::new(10, 244, 0, 9),
        port: u16::try_from(number).unwrap(),
    }
}

fn port(numbers: &mut StdRng, name: u64) -> ServicePort {
    let endpoint = |numbers: &mut StdRng| Endpoint {
        ip: address(numbers, [10, 244, 0]),
        port: 80,
    };
    let mut cluster: Vec<Endpoint> = (0..numbers.random_range(0..4))
        .map(|_| endpoint(numbers))
        .collect();
    if numbers.random_range(0..8) == 0 {
        let count = BALANCED_ENDPOINTS_MAX + numbers.random_range(0..3);
        cluster = (1..=count).map(endpoint_at).collect();
    }
    cluster.sort();
    cluster.dedup();
    let local = cluster
        .iter()
        .copied()
        .filter(|_| numbers.random_bool(0.5))
        .collect();
    let seconds = if numbers.random_bool(0.5) { 60 } else { 10_800 };
    ServicePort {
        id: format!("default/s{name}/tcp/80"),
        age: age(numbers),
        protocol: if numbers.random_bool(0.5) {
            Protocol::Tcp
        } else {
            Protocol::Udp
        },
        port: 80,
        cluster_ip: address(numbers, [10, 96, 0]),
        external_ips: (0..numbers.random_range(0..2))
            .map(|_| address(numbers, [203, 0, 113]))
            .collect(),
        load_balancer_ips: (0..numbers.random_range(0..2))
            .map(|_| address(numbers, [203, 0, 113]))
            .collect(),
        source_ranges: (0..numbers.random_range(0..2))
            .map(|_| "192.0.2.0/24".parse().unwrap())
            .collect(),
        node_port: numbers
            .random_bool(0.5)
            .then(|| 30_000 + u16::try_from(numbers.random_range(0..3)).unwrap()),
        affinity: numbers.random_bool(0.5).then_some(Affinity {
            timeout_seconds: seconds,
        }),
        internal_local: numbers.random_bool(0.5),
        external_local: numbers.random_bool(0.5),
        endpoints: Endpoints { cluster, local },
    }
}

fn age(numbers: &mut StdRng) -> ServiceAge {
    ServiceAge {
        created: Some(numbers.random_range(0..3)),
        uid: numbers.random_range(0..3).to_string().parse().ok(),
    }
}

/// Random addresses of machines; Services claim some of them.
fn machines(numbers: &mut StdRng) -> MachineAddresses {
    let mut some = || {
        let count = numbers.random_range(0..3);
        (0..count)
            .map(|_| address(numbers, [203, 0, 113]))
            .collect()
    };
    MachineAddresses {
        local: some(),
        others: some(),
    }
}

/// Ranges with and without external addresses and machines.
fn further_ranges(numbers: &mut StdRng) -> Vec<Cidr> {
    let all = ["10.97.0.0/24", "10.244.3.0/24", "203.0.113.0/30"];
    let all = all.iter().map(|range| range.parse().unwrap());
    all.filter(|_| numbers.random_bool(0.5)).collect()
}

fn cluster(numbers: &mut StdRng, settings: &Settings) -> Table {
    let ports: Vec<ServicePort> = (0..numbers.random_range(0..6))
        .map(|name| port(numbers, name))
        .collect();
    let published: Vec<PublishedPort> = (0..numbers.random_range(0..4))
        .map(|_| host_port(numbers))
        .collect();
    let mut table = table(&ports, settings);
    publish(&mut table, &published);
    table
}

fn host_port(numbers: &mut StdRng) -> PublishedPort {
    PublishedPort {
        pod: address(numbers, [10, 244, 0]),
        port: HostPort {
            protocol: Protocol::Udp,
            address: numbers
                .random_bool(0.5)
                .then(|| address(numbers, [203, 0, 113])),
            port: 30_000 + u16::try_from(numbers.random_range(0..3)).unwrap(),
            target: 80 + u16::try_from(numbers.random_range(0..2)).unwrap(),
        },
    }
}

fn listening_address(numbers: &mut StdRng) -> ListeningAddress {
    ListeningAddress {
        transport: Transport::Udp,
        address: numbers
            .random_bool(0.5)
            .then(|| address(numbers, [203, 0, 113])),
        port: 30_000 + u16::try_from(numbers.random_range(0..3)).unwrap(),
    }
}

fn settings() -> Settings {
    Settings {
        pod_range: "10.244.0.0/24".parse().unwrap(),
        cluster_range: "10.244.0.0/16".parse().unwrap(),
        service_range: "10.96.0.0/16".parse().unwrap(),
        further_ranges: Vec::new(),
        unmanaged: ["10.96.0.7".parse().unwrap()].into(),
        pod_links: "msa1b2".to_owned(),
        encrypted_link: None,
        switch_range: None,
        machines: MachineAddresses::default(),
    }
}

fn numbers(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Services that are changed, created or removed; they claim few addresses, so that claims conflict.
fn some_services(numbers: &mut StdRng) -> BTreeMap<ServiceName, Vec<ServicePort>> {
    let some = (0..numbers.random_range(0..4)).map(|_| {
        let name = numbers.random_range(0..6);
        let service = ServiceName {
            namespace: "default".to_owned(),
            name: format!("s{name}"),
        };
        let age = age(numbers);
        let ports = (0..numbers.random_range(0..3)).map(|second| {
            let mut port = port(numbers, name);
            port.age = age.clone();
            port.id = format!("default/s{name}/tcp/{second}");
            port
        });
        (service, ports.collect())
    });
    some.collect()
}

#[test]
fn services_one_by_one_lead_to_the_table_of_all() {
    for seed in 1..400_u64 {
        let mut numbers = numbers(seed);
        let mut settings = settings();
        let mut left_out = BTreeSet::new();
        let mut tunnel = None;
        let mut routes = Routes::new(settings.clone());
        let mut followed = routes.table();
        let mut services: BTreeMap<ServiceName, Vec<ServicePort>> = BTreeMap::new();
        let mut listening = Listening::default();
        for round in 0..8 {
            let steps = if numbers.random_range(0..4) == 0 {
                let ports = (0..numbers.random_range(0..4)).map(|_| host_port(&mut numbers));
                routes.publish(ports.collect())
            } else if numbers.random_range(0..4) == 0 {
                listening = (0..numbers.random_range(0..4))
                    .map(|_| listening_address(&mut numbers))
                    .collect();
                routes.hold(listening.clone())
            } else if numbers.random_range(0..6) == 0 {
                settings.machines = machines(&mut numbers);
                routes.set_machines(settings.machines.clone())
            } else if numbers.random_range(0..6) == 0 {
                settings.further_ranges = further_ranges(&mut numbers);
                routes.set_further_ranges(settings.further_ranges.clone())
            } else if numbers.random_range(0..8) == 0 {
                tunnel = numbers.random_bool(0.7).then(|| TunnelGuard {
                    port: 8472,
                    number: numbers.random_range(1..3),
                    ends: machines(&mut numbers).local,
                });
                routes.guard(tunnel.clone())
            } else if numbers.random_range(0..6) == 0 {
                left_out = some_services(&mut numbers).into_keys().collect();
                routes.leave_out(left_out.clone())
            } else {
                let changed = some_services(&mut numbers);
                services.extend(changed.clone());
                routes.replace(changed)
            };
            let before = followed.clone();
            followed = apply(followed, &steps).unwrap();
            assert_eq!(followed, routes.table(), "seed {seed}, round {round}");
            assert_eq!(steps.is_empty(), followed == before, "seed {seed}");
            let served = services.iter().filter(|(name, _)| !left_out.contains(name));
            let mut whole = table(served.flat_map(|(_, ports)| ports), &settings);
            publish(&mut whole, routes.published());
            hold(&mut whole, &listening);
            guard(&mut whole, tunnel.as_ref());
            assert_eq!(followed, whole, "seed {seed}, round {round}");
        }
    }
}

#[test]
fn changes_lead_from_any_table_to_any_other() {
    let settings = settings();
    for seed in 1..1_000_u64 {
        let mut numbers = numbers(seed);
        let before = cluster(&mut numbers, &settings);
        let after = cluster(&mut numbers, &settings);
        let steps = changes(&before, &after);
        assert_eq!(
            apply(before.clone(), &steps).as_ref(),
            Ok(&after),
            "seed {seed}"
        );
        assert_eq!(steps.is_empty(), before == after, "seed {seed}");
        let from_nothing = changes(&Default::default(), &after);
        assert_eq!(
            apply(Default::default(), &from_nothing).as_ref(),
            Ok(&after),
            "seed {seed}"
        );
    }
}
