//! Reads the schemas of the published types at build time: their graph becomes constants (`published.rs`), and their
//! definitions, with all descriptions, a compressed document (`definitions.json.deflate`).

mod graph;
mod kinds;
mod published_facts;
mod resource_metrics;

use std::io::Write;
use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// The prefix of references between definitions.
const REFERENCE_PREFIX: &str = "#/components/schemas/";

/// The type of any JSON value. The Rust types describe it as an object.
const ANY_JSON: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=data");
    let out = env::var("OUT_DIR").context("the directory of outputs")?;
    let write = |name: &str, bytes: &[u8]| {
        let path = Path::new(&out).join(name);
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
    };
    let definitions = definitions();
    let graph = graph::source(&definitions, kinds());
    write("published.rs", graph.as_bytes())?;
    let mut packed = DeflateEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&serde_json::to_vec(&definitions)?)?;
    write("definitions.json.deflate", &packed.finish()?)
}

/// Group, version and kind of each known kind, and the name of its definition.
fn kinds() -> Vec<([&'static str; 3], String)> {
    let of_types = kinds::all().into_iter().map(|entry| {
        let name = [entry.group, entry.version, entry.kind];
        (name, entry.definition.into_owned())
    });
    let of_metrics = resource_metrics::KINDS.map(|kind| {
        let name = [resource_metrics::GROUP, resource_metrics::VERSION, kind];
        (name, resource_metrics::definition_name(kind))
    });
    of_types.chain(of_metrics).collect()
}

/// The definitions of all kinds and of all types inside of them, sorted by name.
fn definitions() -> Map<String, Value> {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.transforms.clear();
    });
    let mut generator = settings.into_generator();
    for kind in kinds::all() {
        (kind.generate)(&mut generator);
    }
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::Status>();
    let mut definitions = generator.take_definitions(false);
    correct(&mut definitions);
    resource_metrics::add(&mut definitions);
    definitions.sort_keys();
    definitions
}

/// Sets the required fields of the definitions to those of the published document, because the Rust types differ.
fn correct(definitions: &mut Map<String, Value>) {
    let required = published_facts::required();
    for (name, definition) in definitions.iter_mut() {
        let Value::Object(definition) = definition else {
            continue;
        };
        match required.get(name.as_str()) {
            Some(fields) => definition.insert("required".to_owned(), fields.as_slice().into()),
            None => definition.remove("required"),
        };
    }
    if let Some(Value::Object(any)) = definitions.get_mut(ANY_JSON) {
        any.remove("type");
    }
}
