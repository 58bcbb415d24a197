//! The benchmarks of the whole program, one module each. They are one program, because separate programs would each
//! compile and link the client.
//!
//! `cargo xtask bench NAME` runs one benchmark.

mod csi;
mod dns;
mod exec;
mod failover;
mod idle;
mod node_loss;
mod nodes;
mod pods;
mod replication;
mod servers;
mod services;
mod volume_move;
mod volumes;
mod whole_program;

/// The names of the benchmarks for `cargo xtask bench`.
const BENCHMARKS: [(&str, fn()); 14] = [
    ("csi", csi::bench),
    ("dns", dns::bench),
    ("exec", exec::bench),
    ("failover", failover::bench),
    ("idle", idle::bench),
    ("node-loss", node_loss::bench),
    ("nodes", nodes::bench),
    ("pods", pods::bench),
    ("replication", replication::bench),
    ("servers", servers::bench),
    ("services", services::bench),
    ("startup-memory", whole_program::bench),
    ("volume-move", volume_move::bench),
    ("volumes", volumes::bench),
];

fn main() {
    let names = BENCHMARKS.map(|(name, _)| name).join(", ");
    // Cargo adds `--bench`.
    let mut arguments = std::env::args().skip(1);
    let expected = arguments.find(|argument| !argument.starts_with('-'));
    let expected = expected.unwrap_or_default();
    let named = BENCHMARKS.iter().find(|(name, _)| *name == expected);
    let (_, bench) =
        named.unwrap_or_else(|| panic!("no benchmark '{expected}'; there are: {names}"));
    bench();
}
