//! The store of the servers in the tests: the embedded store in the data directory, or an etcd of one member for each
//! server. `cargo xtask test --store etcd` selects etcd.

use std::env::{self, VarError};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;

use crate::etcd::{Member, of_one_member};
use crate::{Network, wait_for};

/// The variable that selects the store: `embedded`, which is the default, or `etcd`.
const VARIABLE: &str = "MAINSTAY_TEST_STORE";
/// The ports of a member for clients and for other members, and the port that reserves its number.
const PORTS: [u16; 3] = [2379, 2380, 2381];

/// The store of one server.
pub(crate) enum Engine {
    /// `mainstay up` with its store in the data directory.
    Embedded,
    /// `mainstay server --with-node` with its store in an etcd.
    Etcd(PrivateEtcd),
}

impl Engine {
    /// The selected store, with its data below `directory`, for a server with these arguments.
    ///
    /// # Panics
    ///
    /// The store cannot be started, or does not support these arguments.
    #[track_caller]
    pub(crate) fn chosen(directory: &Path, arguments: &[&str]) -> Self {
        match env::var(VARIABLE).as_deref() {
            Ok("embedded") | Err(VarError::NotPresent) => return Self::Embedded,
            Ok("etcd") => {}
            other => panic!("{VARIABLE} is embedded or etcd, and not {other:?}"),
        }
        let of_up = arguments
            .iter()
            .find(|argument| ["-f", "--nodes"].contains(argument));
        assert!(
            of_up.is_none(),
            "{of_up:?} is of `mainstay up`, which has its store in the data directory: name the test in \
             crates/workspace-tasks/src/engines.rs"
        );
        Self::Etcd(PrivateEtcd::start(directory))
    }

    /// The role with its arguments.
    pub(crate) fn role(&self) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match self {
            Self::Embedded => words(&["up", "--listen", "127.0.0.1:0"]),
            Self::Etcd(etcd) => [
                words(&["server", "--with-node", "--listen", "0.0.0.0:0"]),
                etcd.arguments(),
            ]
            .concat(),
        }
    }
}

/// An etcd of one member, which stops when this value is dropped.
pub(crate) struct PrivateEtcd {
    reservation: Reservation,
    _member: Member,
}

impl PrivateEtcd {
    fn start(directory: &Path) -> Self {
        let reserved = Reservation::reserve();
        let address = reserved.address();
        let [client, peer, _] = PORTS.map(|port| format!("http://{address}:{port}"));
        let mut arguments = of_one_member(&directory.join("etcd"), &client, &peer);
        // No test with this store switches the machine off, and many tests share its disk.
        arguments.push("--unsafe-no-fsync".to_owned());
        let member = Member::start(Network::of_machine(), arguments);
        wait_for(&format!("etcd at {client}"), 120, || {
            let connected = TcpStream::connect((address, PORTS[0]));
            connected.map(drop).map_err(|error| error.to_string())
        });
        Self {
            reservation: reserved,
            _member: member,
        }
    }

    fn arguments(&self) -> Vec<String> {
        // `mainstay server` accepts only these ranges, as `up` does.
        let [pods, services] = self.reservation.ranges();
        let store = format!(
            "--store=etcd+http://{}:{}",
            self.reservation.address(),
            PORTS[0]
        );
        vec![store, pods, services]
    }
}

/// Ranges of addresses that no other test uses at this time, even while no server uses them.
pub struct ReservedRanges(Reservation);

impl ReservedRanges {
    /// Reserves ranges until the value is dropped.
    pub fn reserve() -> Self {
        Self(Reservation::reserve())
    }

    /// The options `--pod-cidr` and `--service-cidr` of a server.
    pub fn arguments(&self) -> [String; 2] {
        self.0.ranges()
    }
}

/// The first of the ranges `10.N.0.0/16` that are reserved, and the number of them.
const FIRST_RANGE: u8 = 160;
const PLACES: u8 = 64;

/// A number whose addresses no other test uses at this time.
struct Reservation {
    number: u8,
    /// Reserves the number; the kernel releases the port when the process exits.
    _reservation: TcpListener,
}

impl Reservation {
    fn reserve() -> Self {
        let mut free = (0..PLACES).filter_map(|number| {
            let address = address(number);
            let reservation = TcpListener::bind((address, PORTS[2])).ok()?;
            // The etcd of a killed test may still run.
            let is_free = PORTS[..2]
                .iter()
                .all(|port| TcpListener::bind((address, *port)).is_ok());
            is_free.then_some(Self {
                number,
                _reservation: reservation,
            })
        });
        free.next().expect("addresses for an etcd")
    }

    fn address(&self) -> Ipv4Addr {
        address(self.number)
    }

    /// The options with the ranges of pods and of Services.
    fn ranges(&self) -> [String; 2] {
        let second = FIRST_RANGE + self.number;
        [
            format!("--pod-cidr=10.{second}.0.0/20"),
            format!("--service-cidr=10.{second}.128.0/20"),
        ]
    }
}

/// The address of a member on the loopback link.
fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 77, number, 1)
}
