//! Converts the published definitions at build time: their graph becomes constants (`published.rs`), and the definitions,
//! with all descriptions, a compressed document (`definitions.json.deflate`). `cargo xtask tables` writes the sources.

mod graph;
mod published_facts;
mod resource_metrics;

use std::io::Write;
use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use serde_json::{Map, Value};

/// The prefix of references between definitions.
const REFERENCE_PREFIX: &str = "#/components/schemas/";

/// The definitions of all kinds and of all types inside of them, sorted by name.
const DEFINITIONS: &str = include_str!("../data/definitions.json");

/// The kinds: `apiVersion`, kind, definition.
const KINDS: &str = include_str!("../data/kinds.tsv");

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=data");
    let out = env::var("OUT_DIR").context("the directory of outputs")?;
    let write = |name: &str, bytes: &[u8]| {
        let path = Path::new(&out).join(name);
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
    };
    let mut definitions: Map<String, Value> =
        serde_json::from_str(DEFINITIONS).context("definitions.json")?;
    resource_metrics::add(&mut definitions);
    definitions.sort_keys();
    let graph = graph::source(&definitions, kinds()?);
    write("published.rs", graph.as_bytes())?;
    let mut packed = DeflateEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&serde_json::to_vec(&definitions)?)?;
    write("definitions.json.deflate", &packed.finish()?)
}

/// Group, version and kind of each known kind, and the name of its definition.
fn kinds() -> Result<Vec<([&'static str; 3], &'static str)>> {
    let rows = KINDS.lines().filter(|line| !line.starts_with('#'));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('\t').collect();
        let [api_version, kind, definition] = cells[..] else {
            anyhow::bail!("kinds.tsv: a row has not three cells: {row}");
        };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Ok(([group, version, kind], definition))
    })
    .collect()
}
